"""Evaluations through Inspect AI: a model provider, tasks and a scorer, which Inspect finds by an entry point."""
