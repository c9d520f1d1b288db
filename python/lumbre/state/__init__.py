"""What a run holds: read by all above, it calls nobody."""
