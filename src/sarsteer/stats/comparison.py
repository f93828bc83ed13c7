"""Compare defenses with a baseline: paired differences, exact p-values, and Holm's correction for several tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sarsteer.stats.clusters import cluster_sums
from sarsteer.stats.estimate import Clusters, Estimate
from sarsteer.stats.intervals import difference_interval


@dataclass(frozen=True)
class Comparison:
    """One of several paired differences.

    Attributes:
        difference: of the rates; the interval is not corrected for the number of comparisons.
        p: two-sided, from the sign-flip test.
        p_holm: the same, corrected for all comparisons made together.
        test: the name of the test that gave ``p``.

    """

    difference: Estimate
    p: float
    p_holm: float
    test: str


def compare(
    arms: Mapping[str, Sequence[bool]], baseline: Sequence[bool], clusters: Clusters = None
) -> dict[str, Comparison]:
    """Each arm's rate minus the baseline's, over the same items in the same order.

    Intervals come from ``difference_interval``, p-values from ``sign_flip_p``; the two may differ at the edge.
    """
    plain = clusters is None or len(set(clusters)) == len(clusters)
    test = "McNemar's exact test" if plain else "exact sign-flip test over clusters"
    differences = {name: paired_difference(arm, baseline, clusters=clusters) for name, arm in arms.items()}
    p_values = [sign_flip_p(arm, baseline, clusters) for arm in arms.values()]
    corrected = holm(p_values)
    return {
        name: Comparison(differences[name], p, p_holm, test)
        for name, p, p_holm in zip(arms, p_values, corrected, strict=True)
    }


def paired_difference(first: Sequence[bool], second: Sequence[bool], *, clusters: Clusters = None) -> Estimate:
    """Mean of ``first − second`` over the same items, in [-1, 1], with ``difference_interval``.

    Two arms that never differ give 0 with an interval around it: that they are equal is not proven.
    """
    if len(first) != len(second):
        raise ValueError("a paired difference needs the same items on both sides")
    n = len(first)
    if n == 0:
        raise ValueError("an estimate over no items is undefined")
    ones = np.ones(n)
    sums = cluster_sums(np.stack([np.asarray(first, float), ones, np.asarray(second, float), ones], axis=1), clusters)
    low, high = map(float, difference_interval(sums))
    value = float((sums[:, 0].sum() - sums[:, 2].sum()) / n)
    return Estimate(value, low, high, n, None if len(sums) == n else len(sums))


def sign_flip_p(first: Sequence[bool], second: Sequence[bool], clusters: Clusters = None) -> float:
    """The exact two-sided p-value of "the arms are exchangeable within every item".

    Under that hypothesis each cluster's sum of differences is as likely with the other sign (Fisher's randomization
    test). With one outcome per cluster this is McNemar's exact test. The sums are whole numbers, so the distribution
    of their total is computed, not sampled.
    """
    if len(first) != len(second):
        raise ValueError("a paired test needs the same items on both sides")
    differences = np.asarray(first, float) - np.asarray(second, float)
    sums = np.abs(cluster_sums(differences[:, None], clusters)[:, 0]).round().astype(int)
    observed = abs(round(float(differences.sum())))
    pmf = np.ones(1)  # of the number of units that changed sign: the total is (all units) − 2 · (that number)
    for size, count in zip(*np.unique(sums[sums > 0], return_counts=True), strict=True):
        flips = np.zeros(int(size * count) + 1)
        flips[:: int(size)] = _fair_coin(int(count))
        pmf = np.convolve(pmf, flips)
    totals = np.abs(len(pmf) - 1 - 2 * np.arange(len(pmf)))
    return min(1.0, float(pmf[totals >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): it bounds the chance of any false positive by the level.

    It does not need independence, and is never weaker than Bonferroni's correction.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _fair_coin(n: int) -> np.ndarray:
    """The binomial distribution of n tosses, through logarithms: 2^n overflows a float past n = 1023."""
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(n + 1)]
    return np.exp(logs)
