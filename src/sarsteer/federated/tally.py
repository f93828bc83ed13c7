"""Whether the rounds of one sum count the same clips: every clip has one part, so later rounds follow from the first.

The first round counts the pairs, the other safe requests, and those of them that fit detectors. The clips that choose a
detector and those that set the threshold are the rest, a pair's two clips always do the same, and every histogram of a
round counts the same clips. A site that reports more scores than it has clips breaks these sums, even if only their sum
over all sites is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sarsteer.steering.pooled.rounds import Query
from sarsteer.steering.pooled.setting import Setting
from sarsteer.steering.pooled.sums import Layout, Sums

_EXACT = 1e-3
"""Counts are integers, and a sum of a few thousand of them in fixed point is wrong by far less."""


@dataclass(frozen=True, eq=False)
class Count:
    """Numbers of clips that may be wrong by ``room`` each: by noise for privacy, or by rounding."""

    value: torch.Tensor = field(repr=False)
    room: float

    def __add__(self, other: Count) -> Count:
        return Count(self.value + other.value, self.room + other.room)

    def __getitem__(self, index: slice | torch.Tensor) -> Count:
        return Count(self.value[index], self.room)

    @property
    def total(self) -> Count:
        """Over all elements."""
        return Count(self.value.sum(), self.room * math.sqrt(max(self.value.numel(), 1)))

    def exceeds(self, other: Count) -> bool:
        """Whether an element is larger than the other's."""
        return bool((self.value - other.value > self.room + other.room).any())

    def differs(self, other: Count) -> bool:
        """Whether an element is not the other's."""
        return self.exceeds(other) or other.exceeds(self)


@dataclass(frozen=True, eq=False)
class Tally:
    """What one sum of a round counts.

    Attributes:
        sites: whose clips.
        counts: by name of the part; those of a histogram are its totals.

    """

    sites: tuple[str, ...]
    counts: Mapping[str, Count]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        counts = {name: [count.value.tolist(), count.room] for name, count in self.counts.items()}
        return {"sites": list(self.sites), "counts": counts}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Tally:
        """The inverse of ``to_json``."""
        counts = {
            name: Count(torch.tensor(value, dtype=torch.float64), float(room))
            for name, (value, room) in stored["counts"].items()
        }
        return cls(tuple(stored["sites"]), counts)


def tally_of(sites: Sequence[str], layout: Layout, sums: Sums, multiplier: float = 0.0) -> Tally:
    """The counts in ``sums``.

    Args:
        sites: whose clips are in them.
        layout: the parts of the sums.
        sums: of one round.
        multiplier: of the noise for privacy. A count may then be wrong by 8 standard deviations.

    """
    noise = 8 * multiplier * math.sqrt(len(layout))
    counts = {}
    for name in ("pairs", "benign", "fit_count"):
        if name in sums:
            counts[name] = Count(sums[name], max(_EXACT, noise * layout[name].length))
    for name in ("norms", "scores", "unlimited", "distances"):
        if name in sums:
            part = layout[name]
            room = noise * part.length * float(part.unit.max()) * math.sqrt(part.shape[-1])
            counts[name] = Count(sums[name].sum(-1), max(_EXACT, room))
    return Tally(tuple(sites), counts)


def contradiction(setting: Setting, query: Query, now: Tally, past: Sequence[Tally]) -> str | None:
    """Why the clips of ``now`` are not those of the rounds before it, in words; None if they can be.

    Args:
        setting: the classes of clips.
        query: what was asked.
        now: the counts of the answer.
        past: those of the earlier rounds, in order: of the same sites, and perhaps of some that have dropped out since.

    """
    first = (past[0] if past else now).counts
    pairs, others, fit = first["pairs"], first["benign"], first["fit_count"]
    same = all(one.sites == now.sites for one in past)
    if query.name == "statistics":
        return _unlike_pairs(setting, "fits detectors with", fit) or _more_than(setting, fit, pairs, others, False)
    if query.name == "spread":
        norms = now.counts["norms"]
        if norms.exceeds(pairs) or (same and norms.differs(pairs)):
            return f"it has {norms.value.max():.0f} norms of {pairs.value:.0f} harmful clips"
        return None
    scores = now.counts["scores"]
    for one in scores.value if query.name != "threshold" else ():
        if Count(one, scores.room).differs(scores[:1]):
            return "its detectors score different numbers of clips"
    chosen = scores if query.name == "threshold" else _row(scores)
    problem = _unlike_pairs(setting, f"answers {query.name!r} for", chosen)
    if problem is not None:
        return problem
    if "unlimited" in now.counts and now.counts["unlimited"].differs(chosen):
        return "it has scores of other clips with the distance limit than without"
    if "distances" in now.counts and now.counts["distances"].differs(chosen.total):
        return "it has distances of other clips than scores"
    if query.name == "choose":
        return _more_than(setting, fit + chosen, pairs, others, False)
    before = _row(past[2].counts["scores"])
    if query.name == "combine":
        if chosen.exceeds(before) or (past[2].sites == now.sites and chosen.differs(before)):
            return f"it answers 'combine' for {chosen.value.sum():.0f} clips, and 'choose' for {before.value.sum():.0f}"
        return None
    return _more_than(setting, fit + before + chosen, pairs, others, same)


def _row(scores: Count) -> Count:
    """``[C]`` from ``[M, C]``: of the first detector, all have the same."""
    return Count(scores.value[0], scores.room)


def _unlike_pairs(setting: Setting, what: str, counts: Count) -> str | None:
    groups = len(setting.pair_groups)
    harmful, twins = counts[:groups], counts[groups : 2 * groups]
    if not harmful.differs(twins):
        return None
    return f"it {what} {harmful.value.sum():.0f} harmful clips and {twins.value.sum():.0f} safe ones of the same pairs"


def _more_than(setting: Setting, counts: Count, pairs: Count, others: Count, same: bool) -> str | None:
    """Whether the clips of all rounds are more than the first round's, or if ``same`` not exactly those."""
    groups = len(setting.pair_groups)
    kinds = (
        ("harmful clips", counts[:groups], pairs),
        ("twins", counts[groups : 2 * groups], pairs),
        ("other safe clips", counts[2 * groups :], others),
    )
    for kind, part, all_ in kinds:
        if part.total.exceeds(all_) or (same and part.total.differs(all_)):
            return f"the rounds count {part.total.value:.0f} {kind}, and the first one {all_.value:.0f}"
    return None
