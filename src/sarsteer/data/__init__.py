"""Calibration pairs and test clips: manifests, and their checks."""
