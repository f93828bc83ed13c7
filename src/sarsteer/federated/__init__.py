"""Calibrate over many sites: each sends sums over its clips, masked if wanted, and no audio or text leaves it."""
