"""The callbacks that write what was measured."""
