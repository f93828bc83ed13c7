"""Audio transforms, one per file."""
