"""One step of torch: it fires no breakpoint and knows no `ctx`."""
