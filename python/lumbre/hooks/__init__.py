"""The base of callbacks, and the compiled plan of a run."""
