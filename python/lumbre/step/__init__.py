"""One step of torch: it fires no breakpoint, and of a run it knows the state alone."""
