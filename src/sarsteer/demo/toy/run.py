"""Run the demo: tune strengths on calibration pairs, then answer held-out requests once under each defense."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone

from sarsteer import tiny
from sarsteer.data.manifest import load_items
from sarsteer.data.pairs import Pairs, load_pairs
from sarsteer.defenses.base import DefenseContext, build_defense
from sarsteer.defenses.registry import DEFENSES
from sarsteer.demo.progress import Progress
from sarsteer.demo.toy.requests import BATCH, ExactJudge, RequestSet
from sarsteer.demo.toy.tuning import Tuned, arms_and_curve, tune
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Arm, Evaluation
from sarsteer.judges.embedded import EmbeddedJudge
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.loading import load_model
from sarsteer.runtime.shared import SharedModel
from sarsteer.stats.estimate import Estimate
from sarsteer.steering.artifact import Steering
from sarsteer.steering.calibration import calibrate

TUNING_PAIRS = 50
PACKAGES = ("sarsteer", "torch", "transformers", "numpy")
JUDGES = f"{EmbeddedJudge().signature}, {ExactJudge().signature}"
NOTES = (
    Note("these are numbers of sarsteer-tiny, a toy model; they say nothing about a large one", "toy"),
    Note("a wrong answer counts as broken", "everyday", "everyday clips"),
    Note("steered with vectors from the other half of the calibration pairs", "tuning", "tuning pairs"),
)


@dataclass(frozen=True)
class Row:
    """One line of the demo's table.

    Attributes:
        title: the defense.
        arm: the held-out pairs.
        correct_safe: the share of safe requests answered correctly, word for word.
        everyday: the share of everyday clips answered correctly.

    """

    title: str
    arm: Arm
    correct_safe: Estimate
    everyday: Estimate


@dataclass(frozen=True)
class DemoResult:
    """Everything that the demo shows.

    Attributes:
        evaluation: all answers and numbers, for a report.
        rows: the demo's table.
        tuned: how the strengths were chosen.

    """

    evaluation: Evaluation = field(repr=False)
    rows: tuple[Row, ...]
    tuned: Tuned

    def row(self, title: str) -> Row:
        """The row of a defense."""
        return next(row for row in self.rows if row.title == title)


def run(progress: Progress, model: AudioLanguageModel | None = None) -> DemoResult:
    """Tune, calibrate, and answer the held-out pairs and the everyday clips."""
    model = model or load_model(tiny.NAME)
    shared = SharedModel(model, BATCH)
    calibration = load_pairs(tiny.NAME, "calibration")
    # Strengths are chosen on pairs that the vectors have not seen: ablation protects the clips of the safe subspace
    # better than any others. The vectors in use then come from all pairs.
    half = _calibrate(model, calibration[:-TUNING_PAIRS], "half of the pairs", progress)
    steering = _calibrate(model, calibration, "all pairs", progress)
    try:
        tuned = tune(shared, half, calibration[-TUNING_PAIRS:], steering.gate, progress)
        rows, everyday = _answer(shared, _defenses(tuned), steering, progress)
    finally:
        shared.answerer.close()
    tuning_arms, curve = arms_and_curve(tuned)
    evaluation = Evaluation(
        model=shared.identity,
        judge={"name": f"{EmbeddedJudge.name}; {ExactJudge.name} for everyday clips", "signature": JUDGES},
        command="sarsteer demo",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        arms=(*(row.arm for row in rows), *everyday, *tuning_arms),
        curve=tuple(curve),
        layers=tuple(asdict(layer) for layer in steering.report(tuned.ablated.alpha, tuned.ablated.k)),
        notes=NOTES,
    )
    return DemoResult(evaluation, tuple(rows), tuned)


def _calibrate(model: AudioLanguageModel, pairs: Pairs, name: str, progress: Progress) -> Steering:
    return calibrate(model, pairs, progress=lambda done, total: progress(f"Calibrating on {name}", done, total))


def _defenses(tuned: Tuned) -> dict[str, str]:
    """The spec of each defense of the table, by its title."""
    defenses = {
        "no defense": "none",
        "refusal prompt": "prompt:refusal",
        "refusal steering, no ablation": tuned.raw.spec,
        "SARSteer": tuned.ablated.spec,
    }
    if tuned.gated_alpha is not None:
        defenses["SARSteer, gated"] = f"sarsteer:alpha={tuned.gated_alpha:g},k=0,gate=on"
    return defenses


def _answer(
    shared: SharedModel, defenses: Mapping[str, str], steering: Steering, progress: Progress
) -> tuple[list[Row], list[Arm]]:
    """The rows of the table, and the arms of the everyday clips."""
    test = load_pairs(tiny.NAME, "test")
    tasks = load_items(tiny.clips_manifest("everyday"))
    requests = RequestSet.encode("held-out pairs", [*test.harmful, *test.safe], EmbeddedJudge(), shared, progress)
    everyday = RequestSet.encode("everyday clips", tasks, ExactJudge(), shared, progress)
    context = DefenseContext(shared.model, steering=steering)
    rows: list[Row] = []
    everyday_arms: list[Arm] = []
    for title, spec in defenses.items():
        progress("Answering under each defense", len(rows), len(defenses))
        defense = build_defense(DEFENSES.parse(spec), context)
        arm = requests.arm(spec, defense, rows[0].arm if rows else None)
        everyday_arms.append(everyday.arm(spec, defense, everyday_arms[0] if everyday_arms else None))
        rows.append(Row(title, arm, requests.correct(arm), everyday.correct(everyday_arms[-1])))
    progress("Answering under each defense", len(rows), len(defenses))
    return rows, everyday_arms
