"""The state of a run: it is read by all packages above, and calls nobody."""
