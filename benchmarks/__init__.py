"""Measurements of sarsteer, each a command: ``python -m benchmarks.NAME``."""
