"""Rates, their intervals, and comparisons. Uses nothing else of the package."""
