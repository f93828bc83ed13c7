"""Pairs and points that several tests of the search use."""

from __future__ import annotations

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pair, Pairs
from sarsteer.steering.strength import Strength
from sarsteer.tuning.configuration import Configuration
from sarsteer.tuning.front import MeasuredPoint
from sarsteer.tuning.measure import Measured


def written_pairs(n: int, same: dict[int, int] | None = None) -> Pairs:
    """Written pairs; ``same[i] = j`` gives pair i the safe request of pair j."""
    rows = []
    for i in range(n):
        harmful = Item(f"h{i}", f"harmful number {i}", "harmful", modality="text", pair=str(i))
        text = f"safe number {(same or {}).get(i, i)}"
        rows.append(Pair(str(i), harmful, Item(f"s{i}", text, "safe", modality="text", pair=str(i))))
    return Pairs(rows)


def measured(asr: int, over: int, broken: int) -> Measured:
    """Outcomes of twenty harmful and twenty safe requests."""
    harmful = ["complied"] * asr + ["broken"] * broken + ["refused"] * (20 - asr - broken)
    return Measured(tuple(harmful), tuple(["refused"] * over + ["complied"] * (20 - over)))


def point(alpha: float, asr: int, over: int, broken: int) -> MeasuredPoint:
    return MeasuredPoint(Configuration(Strength(alpha, 0, 1.0, (1.0,) * 4)), measured(asr, over, broken))
