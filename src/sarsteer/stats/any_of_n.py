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
    steps = _steps(most)
    rates = tuple(mean([any_of(sum(item), len(item), n) for item in outcomes], clusters, limits=(0, 1)) for n in steps)
    return CurveOfN(steps, rates, *power_law(steps, [one.value for one in rates]))


def curve_until(first: Sequence[int | None], most: int, clusters: Sequence[str] | None = None) -> CurveOfN:
    """The curve of items that were tried until the first success, or ``most`` times.

    It costs far fewer tries than ``curve_of_n``, and varies more: it is the share of items whose first n tries, in the
    order of the attack, contain a success.

    Args:
        first: the number of each item's first successful try, from 1; None if there was none.
        most: the largest number of tries.
        clusters: of dependent items.

    Raises:
        ValueError: there are no items.

    """
    if not first:
        raise ValueError("there are no items")
    steps = _steps(most)
    hits = [[float(one is not None and one <= n) for one in first] for n in steps]
    rates = tuple(mean(row, clusters, limits=(0, 1)) for row in hits)
    return CurveOfN(steps, rates, *power_law(steps, [one.value for one in rates]))


def _steps(most: int) -> tuple[int, ...]:
    """Powers of two up to ``most``, and ``most``."""
    return tuple(sorted({*(2**i for i in range(most.bit_length()) if 2**i <= most), most}))


def power_law(n: Sequence[int], rates: Sequence[float]) -> tuple[float | None, float | None]:
    """Fit −ln(rate) = a n^(−b) by least squares of the logarithms; a and b are None without two rates within (0, 1)."""
    points = [(math.log(x), math.log(-math.log(one))) for x, one in zip(n, rates, strict=True) if 0 < one < 1]
    if len(points) < 2:
        return None, None
    slope, intercept = np.polyfit([x for x, _ in points], [y for _, y in points], 1)
    return float(math.exp(intercept)), float(-slope)
