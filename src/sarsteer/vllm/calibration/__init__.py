"""Calibration with activations that vLLM's workers read."""
