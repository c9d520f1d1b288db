"""A run under way: the tree of breakpoints, and what is around it."""
