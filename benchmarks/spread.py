"""Intervals of timing ratios."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def median_interval(ratios: Sequence[float]) -> tuple[float, list[float]]:
    """The median of ratios and its 95 % interval, from a bootstrap over rounds."""
    draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), [float(low), float(high)]
