"""Strengths chosen by search on calibration pairs: α, k, λ, layers and the gate, for safety and usefulness at once."""
