"""Rates, intervals and comparisons."""
