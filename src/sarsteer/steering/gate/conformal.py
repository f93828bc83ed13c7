"""A threshold with a stated error rate, by split-conformal prediction (Vovk and others, 2005; Lei and others, 2018).

Take n safe requests that took no part in fitting the gate, and let t be their ⌈(n + 1)(1 − ε)⌉-th smallest score. If a
new safe request is exchangeable with them, it scores above t, and is refused, with a probability of at most ε. Nothing
else is assumed: not the distribution of scores, and not that the gate is any good. The rate holds on average over draws
of the n requests; for one draw it varies around ε, by about √(ε / n).

A score of NaN, and a request beyond the gate's distance limit, count as infinite: such a request is steered at any
threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sarsteer.errors import SteeringError

ALL = "all"
"""The group that has every request."""


@dataclass(frozen=True)
class StatedRate:
    """What one group of safe requests says about a threshold.

    Attributes:
        group: ``ALL``, or what the requests have in common.
        n: number of requests.
        max_refused: ε, the largest share of such requests that may be refused.
        threshold: the lowest threshold for which that holds.

    """

    group: str
    n: int
    max_refused: float
    threshold: float


def needed(max_refused: float) -> int:
    """The smallest n for which a threshold exists: ``n ≥ 1/ε − 1``."""
    return math.ceil(1 / max_refused - 1 - 1e-9)


def lowest_rate(n: int) -> float:
    """The lowest ε that n requests can state: ``1/(n + 1)``."""
    return 1 / (n + 1)


def conformal_threshold(scores: Sequence[float], max_refused: float, group: str = ALL) -> float:
    """The lowest threshold that a new safe request exceeds with a probability of at most ``max_refused``.

    Args:
        scores: of n safe requests on which the gate was not fitted; NaN and infinity for requests that are steered at
            any threshold.
        max_refused: ε.
        group: what an error calls these requests.

    Raises:
        SteeringError: ε is not between 0 and 1, n is below ``needed(ε)``, or too many scores are infinite.

    """
    if isinstance(max_refused, bool) or not 0 < max_refused < 1:
        raise SteeringError(f"the largest share of refused requests must be between 0 and 1, not {max_refused}")
    name = "safe" if group == ALL else f"safe {group}"
    n, above = len(scores), math.floor((len(scores) + 1) * max_refused + 1e-9)
    if not above:
        raise SteeringError(
            f"{n} {name} requests are too few to state a rate of {max_refused:.3g}: it takes at least "
            f"{needed(max_refused)}; give more requests, or allow a rate of {1 / (n + 1):.2g}"
        )
    ordered = sorted((math.inf if math.isnan(score) else score for score in scores), reverse=True)
    threshold = ordered[above - 1]
    if math.isinf(threshold):
        beyond = sum(math.isinf(score) for score in ordered)
        raise SteeringError(
            f"{beyond} of {n} {name} requests are beyond the gate's distance limit and are steered at any threshold, "
            f"and a rate of {max_refused:.3g} allows {above - 1}: calibrate on requests like these, remove the limit, "
            "or allow a higher rate"
        )
    return float(threshold)


def stated_rates(
    scores: Sequence[float], groups: Sequence[str], max_refused: float | Mapping[str, float]
) -> list[StatedRate]:
    """The threshold that each group needs; the highest of them keeps every rate.

    Args:
        scores: as in ``conformal_threshold``.
        groups: the group of each score.
        max_refused: ε of all requests together, or of each group; ``ALL`` names all together.

    Raises:
        SteeringError: as in ``conformal_threshold``, or a group has no requests.

    """
    limits = max_refused if isinstance(max_refused, Mapping) else {ALL: max_refused}
    if not limits:
        raise SteeringError("no rate was given; give one for all requests, or one for each group")
    rates = []
    for group, limit in limits.items():
        mine = [score for score, other in zip(scores, groups, strict=True) if group in (ALL, other)]
        if not mine:
            known = ", ".join(sorted(set(groups))) or "none"
            raise SteeringError(f"no safe request is in the group {group!r}; the groups are {known}")
        rates.append(StatedRate(group, len(mine), float(limit), conformal_threshold(mine, limit, group)))
    return rates
