"""From data to batches, and what is drawn at random on the way."""
