"""The demo: calibrate, choose strengths, and answer held-out speech under several defenses; the numbers in a report."""
