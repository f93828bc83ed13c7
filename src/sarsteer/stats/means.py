"""Means of numbers other than shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sarsteer.stats.clusters import cluster_sums
from sarsteer.stats.estimate import Clusters, Score
from sarsteer.stats.intervals import mean_interval


def mean(
    values: Sequence[float], clusters: Clusters = None, *, limits: tuple[float, float] = (-math.inf, math.inf)
) -> Score:
    """The mean of ``values``, with ``mean_interval``.

    Args:
        values: one or more per item.
        clusters: the item of each.
        limits: the lowest and the highest value that the scale allows. Without them, equal values give an interval
            without width, and a single item an infinite one.

    Raises:
        ValueError: there are no values, or one is outside the limits.

    """
    if len(values) == 0:
        raise ValueError("an estimate over no items is undefined")
    column = np.asarray(values, float)
    if column.min() < limits[0] or column.max() > limits[1]:
        raise ValueError(f"values from {column.min():g} to {column.max():g} are outside {limits[0]:g} to {limits[1]:g}")
    sums = cluster_sums(np.stack([column, np.ones(len(column))], axis=1), clusters)
    low, high = map(float, mean_interval(sums, *limits))
    return Score(float(column.mean()), low, high, len(column), None if len(sums) == len(column) else len(sums))
