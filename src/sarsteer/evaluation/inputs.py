"""Everything that a plan names, read and checked before the first answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sarsteer import tiny
from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.data.pairs import Pairs, load_pairs
from sarsteer.evaluation import controls
from sarsteer.evaluation.benchmarks import load_benchmarks
from sarsteer.evaluation.disjoint import check_not_calibrated_on
from sarsteer.evaluation.judge_choice import PlannedJudge, choose_judges
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.plan import EvaluationPlan
from sarsteer.evaluation.word_errors import check_altered

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering


@dataclass(frozen=True)
class Inputs:
    """What a run works with.

    Attributes:
        benchmarks: their requests, with the lengths of the clips.
        judges: a judge for each benchmark, by name.
        steering: the steering file's content.
        pairs: the calibration pairs.
        notes: what a reader of the results must know.

    """

    benchmarks: tuple[LoadedBenchmark, ...] = field(repr=False)
    judges: dict[str, PlannedJudge]
    steering: Steering | None
    pairs: Pairs | None = field(repr=False)
    notes: tuple[Note, ...]


def load_inputs(plan: EvaluationPlan) -> Inputs:
    """Read what ``plan`` names.

    Raises:
        SarsteerError: something is missing, damaged or does not fit, or calibration and test share requests.

    """
    steering, pairs = None, None
    if plan.steering is not None:
        from sarsteer.steering.artifact import Steering

        steering = Steering.from_pretrained(plan.steering)
    benchmarks = load_benchmarks(plan.benchmarks, plan.limit, plan.instruction, plan.audio_root)
    if plan.max_wer is not None and not plan.attacks:
        check_altered(benchmarks)
    if plan.calibration is not None:
        pairs = load_pairs(plan.calibration, "calibration", audio_root=plan.audio_root)
    notes = check_not_calibrated_on(benchmarks, pairs, steering)
    judges = choose_judges(benchmarks, plan.judges)
    notes += [*_notes_on(benchmarks, judges), *controls.notes_on(plan.defenses)]
    if plan.model == tiny.NAME:
        notes.append(Note("these are numbers of sarsteer-tiny, a toy model; they say nothing about a large one", "toy"))
    return Inputs(benchmarks, judges, steering, pairs, tuple(notes))


def _notes_on(benchmarks: Sequence[LoadedBenchmark], judges: dict[str, PlannedJudge]) -> list[Note]:
    notes = [Note(f"its license forbids {one.forbids}", "license", one.name) for one in benchmarks if one.forbids]
    for one in benchmarks:
        if one.measures_usefulness and not judges[one.name].judge.scoring:
            text = "measures how good answers are; only refusals were judged here (--judge air-bench:MODEL scores)"
            notes.append(Note(text, "refusals_only", one.name))
    return notes
