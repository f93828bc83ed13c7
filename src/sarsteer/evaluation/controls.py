"""The defenses of a plan with their controls: what a push of the same size does in other directions.

Without controls a table cannot tell whether a direction refuses, or any disturbance of that size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sarsteer.defenses.base import Defense, Requirement
from sarsteer.defenses.control import Control
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.random_vectors import RandomVectors
from sarsteer.defenses.reversed_vectors import ReversedVectors
from sarsteer.defenses.sarsteer import SarsteerDefense
from sarsteer.defenses.shuffled_labels import ShuffledLabels
from sarsteer.defenses.steered import SteeredDefense
from sarsteer.evaluation.note import Note

if TYPE_CHECKING:
    from sarsteer.evaluation.results import Answer

CONTROLS: tuple[type[Control], ...] = (RandomVectors, ReversedVectors, ShuffledLabels)


@dataclass(frozen=True)
class PlannedDefense:
    """A defense, and its name in tables and logs.

    Attributes:
        name: the user's text; unique in a plan.
        swept: for a point of a curve, the name of the defense whose alpha is varied; None for a row of the table.
        control_of: for a control, the name of the defense that it controls.

    """

    name: str
    defense: Defense
    swept: str | None = None
    control_of: str | None = None


def with_controls(
    rows: Sequence[PlannedDefense], available: Collection[Requirement], *, add: bool = True
) -> list[PlannedDefense]:
    """``rows``, the controls among them marked, and with ``add`` the missing controls of one steered defense.

    The controlled defense is the first ``sarsteer``, else the first other defense that adds vectors. Each control is
    one more arm: a request is answered under one of its five directions. Shuffled labels need the calibration pairs,
    and are left out without them.

    Args:
        rows: the user's defenses.
        available: requirements that the run meets.
        add: False to add none.

    """
    steered = [
        (row.name, row.defense)
        for row in rows
        if isinstance(row.defense, SteeredDefense) and not isinstance(row.defense, Control) and row.defense.controllable
    ]
    marked = [
        replace(row, control_of=next((name for name, one in steered if row.defense.controls(one)), None))
        if isinstance(row.defense, Control)
        else row
        for row in rows
    ]
    steered.sort(key=lambda one: type(one[1]) is not SarsteerDefense)
    if not add or not steered:
        return marked
    name, defense = steered[0]
    present = {type(row.defense) for row in marked if row.control_of == name}
    added = [
        PlannedDefense(f"{kind.name} control of {name}", kind(of=defense), control_of=name)
        for kind in CONTROLS
        if kind not in present and not missing(kind, defense, available)
    ]
    return [*marked, *added]


def missing(kind: type[Control], defense: Defense, available: Collection[Requirement]) -> bool:
    """Whether a control of ``defense`` cannot be built: labels are shuffled for vectors from a steering file only."""
    if kind is not ShuffledLabels:
        return False
    return not isinstance(defense, ArtifactDefense) or not kind.requires <= set(available)


def notes_on(defenses: Sequence[PlannedDefense]) -> list[Note]:
    """What a reader must know about the controls of a plan."""
    steered = [
        row for row in defenses if isinstance(row.defense, SteeredDefense) and not isinstance(row.defense, Control)
    ]
    if not steered:
        return []
    controlled = {row.control_of for row in defenses if row.control_of is not None}
    if not controlled:
        text = "no control: whether the direction matters, or any push of that size would do the same, is not measured"
        return [Note(text, "controls")]
    kinds = {type(row.defense) for row in defenses}
    if any(isinstance(row.defense, ArtifactDefense) for row in steered) and ShuffledLabels not in kinds:
        return [Note("without --calibration there is no control with shuffled labels", "controls")]
    return []


def notes_on_directions(name: str, answers: Sequence[Answer]) -> list[Note]:
    """How much the directions of the control ``name`` differ; nothing if there are not several."""
    refused: dict[int, list[bool]] = {}
    for answer in answers:
        if answer.direction is not None and answer.label == "harmful" and answer.verdict.outcome is not None:
            refused.setdefault(answer.direction, []).append(answer.verdict.outcome == "refused")
    if len(refused) < 2:
        return []
    rates = [sum(hits) / len(hits) for hits in refused.values()]
    text = (
        f"{len(refused)} directions, each on its share of the requests; they refuse {100 * min(rates):.0f} to "
        f"{100 * max(rates):.0f} % of the harmful ones"
    )
    return [Note(text, "directions", name)]
