"""The version of lumbre, that of the crates and of the wheel."""

__version__ = "0.1.0"
