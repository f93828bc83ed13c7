"""Requests: manifests, calibration pairs, benchmarks, and their checks."""
