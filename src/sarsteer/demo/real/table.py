"""The demo's table: what each defense does to each kind of request. The page, the terminal and the README write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sarsteer.demo.real.data import BORDERLINE, EVERYDAY, TWINS
from sarsteer.evaluation.results import Arm
from sarsteer.stats.estimate import Estimate


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: its heading, with the direction of better values.
        meaning: for the legend.

    """

    title: str
    meaning: str


COLUMNS = (
    Column("harmful refused ↑", "harmful requests and unsafe contrasts that were refused"),
    Column("safe refused ↓", "over-refusal: all safe requests that were refused"),
    Column("twins ↓", "safe twins of harmful requests that were refused"),
    Column("borderline ↓", "safe requests that sound dangerous and were refused"),
    Column("everyday ↓", "requests to a voice assistant that were refused"),
    Column("BRR ↑", "(1 + harmful refused − safe refused) / 2; refusing everything, or nothing, scores 50"),
    Column("broken ↓", "answers to any request that are empty, repeat themselves, or have hardly any letters"),
)


def cells(arm: Arm) -> list[Estimate | None]:
    """The numbers of a defense, one for each of ``COLUMNS``; None if there was nothing to count."""
    summary = arm.summary
    kinds = [summary.categories.get(kind) for kind in (TWINS, BORDERLINE, EVERYDAY)]
    refused = [None if kind is None else kind.rr_safe for kind in kinds]
    return [summary.rr_harmful, summary.rr_safe, *refused, summary.brr, summary.broken]


def strength(arm: Arm) -> str:
    """The strength in words; empty if nothing is added to the activations."""
    alpha, k, gate = (arm.settings.get(name) for name in ("alpha", "k", "gate"))
    if alpha is None:
        return ""
    words = f"α {alpha:g}, k {k}"
    return f"{words}, gate at layer {gate['layer']}" if gate else words


def counts(arms: Sequence[Arm]) -> str:
    """The n of each column, in words."""
    found = [cell.n if cell is not None else 0 for cell in cells(arms[0])]
    return ", ".join(f"{column.title[:-2]} {n}" for column, n in zip(COLUMNS, found, strict=True))
