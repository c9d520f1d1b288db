"""What a callback is, and the compiled plan of a run."""
