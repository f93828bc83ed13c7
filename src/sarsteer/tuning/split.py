"""Split pairs into those for the vectors and those for measuring configurations."""

from __future__ import annotations

import random

from sarsteer.data.overlap import check_disjoint
from sarsteer.data.pairs import Pairs
from sarsteer.data.requests import request_numbers
from sarsteer.errors import TuningError

MIN_PAIRS = 10
"""On either side. A rate over fewer pairs has steps of more than ten points: too coarse for a choice."""


def split_pairs(pairs: Pairs, tune_share: float, seed: int) -> tuple[Pairs, Pairs]:
    """The calibration part and the tuning part, each in the order of ``pairs``.

    Ablation protects exactly the clips that the safe subspace comes from better than others, so a strength chosen on
    them would be too high. Pairs that share a request stay together (``request_groups``).

    Args:
        pairs: harmful requests with their safe twins.
        tune_share: share of the pairs to tune on; groups that stay together can make it smaller.
        seed: of the shuffle.

    Raises:
        TuningError: a side would have too few pairs.

    """
    groups = _groups(pairs)
    random.Random(seed).shuffle(groups)
    wanted = round(len(pairs) * tune_share)
    tune: set[int] = set()
    for group in groups:
        if len(tune) + len(group) <= wanted:
            tune.update(group)
    sides = [Pairs([pair for i, pair in enumerate(pairs) if (i in tune) == side]) for side in (False, True)]
    if min(map(len, sides)) < MIN_PAIRS:
        raise TuningError(
            f"{len(pairs)} pairs split into {len(sides[0])} to calibrate on and {len(sides[1])} to tune on, and each "
            f"side needs at least {MIN_PAIRS}: give more pairs, or another split.tune_share"
        )
    check_disjoint([*sides[0].harmful, *sides[0].safe], [*sides[1].harmful, *sides[1].safe])
    return sides[0], sides[1]


def request_groups(pairs: Pairs) -> tuple[int, ...]:
    """The group number of each pair: pairs with the same request, as in several voices, have the same number."""
    return request_numbers([(pair.harmful, pair.safe) for pair in pairs])


def _groups(pairs: Pairs) -> list[list[int]]:
    """Indices of pairs that share a request, directly or through other pairs."""
    groups: dict[int, list[int]] = {}
    for index, number in enumerate(request_groups(pairs)):
        groups.setdefault(number, []).append(index)
    return list(groups.values())
