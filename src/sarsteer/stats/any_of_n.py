"""The chance that at least one of n tries succeeds, and its power law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sarsteer.stats.estimate import Score
from sarsteer.stats.means import mean


def any_of(successes: int, tries: int, n: int) -> float:
    """The share of the sets of ``n`` of these tries that contain a success: 1 − C(tries − successes, n) / C(tries, n).

    It is unbiased for the chance that n fresh tries contain one, and varies less than the first n tries alone.

    Raises:
        ValueError: n is not from 1 to ``tries``.

    """
    if not 1 <= n <= tries:
        raise ValueError(f"n must be from 1 to the {tries} tries, not {n}")
    return 1 - math.prod((tries - successes - i) / (tries - i) for i in range(n))


@dataclass(frozen=True)
class CurveOfN:
    """Success by number of tries.

    Attributes:
        n: numbers of tries, rising.
        rates: the mean over items at each.
        a, b: of the fit −ln(rate) = a n^(−b); None with fewer than two rates strictly between 0 and 1.

    """

    n: tuple[int, ...]
    rates: tuple[Score, ...]
    a: float | None
    b: float | None

    def predicted(self, n: int) -> float | None:
        """The fitted rate at ``n`` tries; None without a fit."""
        return None if self.a is None or self.b is None else math.exp(-self.a * n**-self.b)


def curve_of_n(outcomes: Sequence[Sequence[bool]], clusters: Sequence[str] | None = None) -> CurveOfN:
    """The curve of items with several tries each.

    Args:
        outcomes: whether each try succeeded, by item; items with fewer tries limit the curve.
        clusters: of dependent items.

    Raises:
        ValueError: there are no items, or one has no tries.

    """
    most = min(map(len, outcomes), default=0)
    if most == 0:
        raise ValueError("there are no tries")
    steps = tuple(sorted({*(2**i for i in range(most.bit_length()) if 2**i <= most), most}))
    rates = tuple(mean([any_of(sum(item), len(item), n) for item in outcomes], clusters, limits=(0, 1)) for n in steps)
    points = [
        (math.log(n), math.log(-math.log(one.value))) for n, one in zip(steps, rates, strict=True) if 0 < one.value < 1
    ]
    if len(points) < 2:
        return CurveOfN(steps, rates, None, None)
    slope, intercept = np.polyfit([x for x, _ in points], [y for _, y in points], 1)
    return CurveOfN(steps, rates, float(math.exp(intercept)), float(-slope))
