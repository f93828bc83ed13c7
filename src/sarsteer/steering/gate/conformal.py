"""A threshold with a stated error rate, by split-conformal prediction (Vovk and others, 2005; Lei and others, 2018).

Take n safe requests that took no part in fitting the gate, and let t be their ⌈(n + 1)(1 − ε)⌉-th smallest score. If a
new safe request is exchangeable with them, it scores above t, and is refused, with a probability of at most ε. Nothing
else is assumed: not the distribution of scores, and not that the gate is any good. The rate holds on average over draws
of the n requests; for one draw it varies around ε, by about √(ε / n).

One request in several voices is one request: its clips share its weight of 1/(n + 1), and the threshold is the
corresponding quantile. Then the rate holds for a clip of a new request (hierarchical conformal prediction: Lee, Barber
and Willett, 2023). Counting each clip as a request would state a rate that does not hold.

A score of NaN, and a request beyond the gate's distance limit, count as infinite: such a request is steered at any
threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from sarsteer.errors import SteeringError

ALL = "all"
"""The group that has every request."""


@dataclass(frozen=True)
class StatedRate:
    """What one group of safe requests says about a threshold.

    Attributes:
        group: ``ALL``, or what the requests have in common.
        n: number of requests; one in several voices counts once.
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


def conformal_threshold(
    scores: Sequence[float], max_refused: float, group: str = ALL, requests: Sequence[Hashable] | None = None
) -> float:
    """The lowest threshold that a new safe request exceeds with a probability of at most ``max_refused``.

    Args:
        scores: of n safe requests on which the gate was not fitted; NaN and infinity for requests that are steered at
            any threshold.
        max_refused: ε.
        group: what an error calls these requests.
        requests: equal for the clips of one request, as from ``request_numbers``; by default all are different.

    Raises:
        SteeringError: ε is not between 0 and 1, n is below ``needed(ε)``, or too many scores are infinite.

    """
    if isinstance(max_refused, bool) or not 0 < max_refused < 1:
        raise SteeringError(f"the largest share of refused requests must be between 0 and 1, not {max_refused}")
    name = "safe" if group == ALL else f"safe {group}"
    names = range(len(scores)) if requests is None else requests
    clips = Counter(names)
    n, allowed = len(clips), (len(clips) + 1) * max_refused + 1e-9
    if allowed < 1:
        raise SteeringError(
            f"{n} {name} requests are too few to state a rate of {max_refused:.3g}: it takes at least "
            f"{needed(max_refused)}; give more requests, or allow a rate of {1 / (n + 1):.2g}"
        )
    weighted = [
        (math.inf if math.isnan(score) else score, 1 / clips[request])
        for score, request in zip(scores, names, strict=True)
    ]
    weighted.sort(reverse=True)
    beyond = sum(math.isinf(score) and score > 0 for score, _ in weighted)
    threshold, above = math.inf, 1.0  # the weight of requests above the threshold, the new one included
    for score, weight in weighted:
        if above > allowed:
            break
        threshold = score
        above += weight
    if math.isinf(threshold):
        raise SteeringError(
            f"{beyond} of {len(scores)} {name} requests are beyond the gate's distance limit and are steered at any "
            f"threshold, and a rate of {max_refused:.3g} allows {math.floor(allowed) - 1}: calibrate on requests like "
            "these, remove the limit, or allow a higher rate"
        )
    return float(threshold)


def stated_rates(
    scores: Sequence[float],
    groups: Sequence[str],
    max_refused: float | Mapping[str, float],
    requests: Sequence[Hashable] | None = None,
) -> list[StatedRate]:
    """The threshold that each group needs; the highest of them keeps every rate.

    Args:
        scores: as in ``conformal_threshold``.
        groups: the group of each score.
        max_refused: ε of all requests together, or of each group; ``ALL`` names all together.
        requests: as in ``conformal_threshold``.

    Raises:
        SteeringError: as in ``conformal_threshold``, or a group has no requests.

    """
    limits = max_refused if isinstance(max_refused, Mapping) else {ALL: max_refused}
    if not limits:
        raise SteeringError("no rate was given; give one for all requests, or one for each group")
    names: Sequence[Hashable] = range(len(scores)) if requests is None else requests
    rows = list(zip(scores, groups, names, strict=True))
    rates = []
    for group, limit in limits.items():
        mine = [(score, name) for score, other, name in rows if group in (ALL, other)]
        if not mine:
            known = ", ".join(sorted(set(groups))) or "none"
            raise SteeringError(f"no safe request is in the group {group!r}; the groups are {known}")
        of_group, of_request = zip(*mine, strict=True)
        threshold = conformal_threshold(of_group, limit, group, of_request)
        rates.append(StatedRate(group, len(set(of_request)), float(limit), threshold))
    return rates
