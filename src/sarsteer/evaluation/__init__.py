"""Evaluate benchmarks under defenses: a typed plan, Inspect's runner, and results with their uncertainty."""
