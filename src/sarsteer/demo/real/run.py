"""Run the demo on ``sarsteer-small``: calibrate, choose strengths on the tuning split, answer the test split once."""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone

from sarsteer.data.sarsteer_pairs.texts import NAME as PAIRS
from sarsteer.defenses.base import DefenseContext, build_defense
from sarsteer.defenses.registry import DEFENSES
from sarsteer.demo.arms import judged_arm
from sarsteer.demo.progress import Progress
from sarsteer.demo.real.data import Counts, Split, load_split
from sarsteer.demo.real.requests import BATCH, INSTRUCTION, Ask, Requests, transcribe
from sarsteer.demo.real.tuning import GATED, PUBLISHED, REFUSAL_STEERING, Tuned, tune
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Arm, CurvePoint, Evaluation
from sarsteer.judges.keywords import KeywordJudge
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.runtime.shared import SharedModel
from sarsteer.small import NAME as MODEL
from sarsteer.stats.estimate import Score
from sarsteer.stats.means import mean
from sarsteer.steering.artifact import Steering
from sarsteer.steering.calibration import calibrate

REQUESTS, TUNING = "held-out requests", "tuning requests"
CALIBRATION = Counts(twins=120, borderline=80, everyday=120)
TUNED_ON = Counts(twins=30, borderline=20, everyday=30)
TESTED_ON = Counts(twins=73, borderline=50, everyday=75)
MAX_NEW_TOKENS, TRANSCRIPT_TOKENS = 20, 24
PACKAGES = ("sarsteer", "torch", "transformers", "numpy")
TRANSCRIPTS = "transcripts"
NO_DEFENSE, PROMPT = "no defense", "refusal prompt"
RANDOM, RANDOM_GATED = "random (control)", "random, gated (control)"


@dataclass(frozen=True)
class RealDemo:
    """Everything that the demo shows.

    Attributes:
        evaluation: all answers and numbers, for a report.
        tuned: how the strengths were chosen.
        word_errors: the mean word error rate of the model's transcripts of the test clips; None for text.

    """

    evaluation: Evaluation = field(repr=False)
    tuned: Tuned
    word_errors: Score | None

    @property
    def arms(self) -> list[Arm]:
        """The test requests under each defense."""
        return [arm for arm in self.evaluation.arms if arm.benchmark == REQUESTS]


def run(progress: Progress, model: AudioLanguageModel, limit: int | None = None, *, text: bool = False) -> RealDemo:
    """Calibrate, tune, and answer the test requests.

    Args:
        progress: called in every stage.
        model: ``sarsteer-small``, or another model that ``shares_prefixes``.
        limit: use at most this many requests of each kind in every split, for a quick look.
        text: give the model the words instead of clips, to see what misheard words cost.

    """
    shared = SharedModel(model, BATCH)
    calibration = load_split("calibration", CALIBRATION.at_most(limit), progress, text=text)
    tuning = load_split("tuning", TUNED_ON.at_most(limit), progress, text=text)
    test = load_split("test", TESTED_ON.at_most(limit), progress, text=text)
    steering = _calibrate(model, calibration, progress)
    try:
        tuned = tune(Requests(TUNING, tuning.items, model, progress), model, shared.answerer, steering, progress)
        if tuned.gate is not None:
            steering = steering.with_gate(tuned.gate)
        arms = _test(Requests(REQUESTS, test.items, model, progress), shared, steering, tuned, progress)
    finally:
        shared.answerer.close()
    rates = [answer.wer for answer in arms[0].answers if answer.wer is not None]
    word_errors = None if text else mean(rates, limits=(0, math.inf))
    layers = steering.report(tuned.chosen[REFUSAL_STEERING].alpha, 0)
    evaluation = Evaluation(
        model=shared.identity,
        judge={"name": f"{KeywordJudge.name} (phrases of refusal)", "signature": KeywordJudge().signature},
        command=f"sarsteer demo --model {MODEL}{' --text' if text else ''}"
        + ("" if limit is None else f" --limit {limit}"),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        arms=(*arms, tuned.undefended, *_curves(tuned)[0]),
        curve=_curves(tuned)[1],
        layers=tuple(asdict(layer) for layer in layers),
        notes=_notes(steering, calibration, word_errors, GATED in tuned.chosen),
    )
    return RealDemo(evaluation, tuned, word_errors)


def _calibrate(model: AudioLanguageModel, split: Split, progress: Progress) -> Steering:
    return calibrate(
        model,
        split.pairs,
        instruction=INSTRUCTION,
        benign=split.everyday,
        sources={"pairs": PAIRS, "benign": PAIRS},
        batch_size=BATCH,
        progress=lambda done, total: progress(f"Calibrating on {PAIRS}", done, total),
    )


def _test(requests: Requests, shared: SharedModel, steering: Steering, tuned: Tuned, progress: Progress) -> list[Arm]:
    """The test requests under each defense, no defense first, and the controls last."""
    context = DefenseContext(shared.model, steering=steering)
    chosen, raw = tuned.chosen, tuned.chosen[REFUSAL_STEERING]
    specs = {
        NO_DEFENSE: "none",
        PROMPT: "prompt:refusal",
        REFUSAL_STEERING: raw.spec,
        PUBLISHED: chosen[PUBLISHED].spec,
        **({GATED: chosen[GATED].spec} if GATED in chosen else {}),
        RANDOM: f"random:alpha={raw.alpha:g},k=0,gate=off",
        **({RANDOM_GATED: chosen[GATED].spec.replace("sarsteer", "random")} if GATED in chosen else {}),
    }
    defenses = {title: build_defense(DEFENSES.parse(spec), context) for title, spec in specs.items()}
    asks = {title: Ask(defense, MAX_NEW_TOKENS) for title, defense in defenses.items()}
    if requests.spoken:
        asks[TRANSCRIPTS] = transcribe(TRANSCRIPT_TOKENS)
    replies = dict(zip(asks, requests.answer(shared.answerer, list(asks.values()), progress), strict=True))
    transcripts = [reply.text for reply in replies[TRANSCRIPTS]] if requests.spoken else None
    arms: dict[str, Arm] = {}
    controls = {RANDOM: REFUSAL_STEERING, RANDOM_GATED: GATED}
    of = {controlled: control for control, controlled in controls.items()}
    for title in sorted(specs, key=lambda title: (title != NO_DEFENSE, title not in controls)):
        defense, answers = defenses[title], replies[title]
        opened = [reply.details["gate"]["opening"] > 0 for reply in answers if "gate" in reply.details]
        settings = {**defense.settings, "spec": specs[title], "max_new_tokens": MAX_NEW_TOKENS, "decoding": "greedy"}
        if opened:
            settings["gate_opened"] = sum(opened)
        arms[title] = judged_arm(
            requests.name,
            title,
            settings,
            requests.items,
            [reply.text for reply in answers],
            [INSTRUCTION + defense.prompt.after] * len(requests.items),
            KeywordJudge(),
            arms.get(NO_DEFENSE),
            steering=defense.steering,
            transcripts=transcripts,
            directions=[reply.details.get("direction") for reply in answers],
            control=arms.get(of.get(title, "")),
            control_of=controls.get(title),
        )
    return [arms[title] for title in specs]


def _curves(tuned: Tuned) -> tuple[list[Arm], tuple[CurvePoint, ...]]:
    """The chosen trials as arms; the others as points, for the gate at its chosen threshold only."""
    chosen = list(tuned.chosen.values())
    target = None if GATED not in tuned.chosen else tuned.chosen[GATED].target
    points = [
        CurvePoint(trial.arm.benchmark, trial.method, trial.alpha, trial.arm.summary)
        for trial in tuned.trials
        if trial not in chosen and trial.target in (None, target)
    ]
    return [trial.arm for trial in chosen], tuple(points)


def _notes(steering: Steering, calibration: Split, word_errors: Score | None, gated: bool) -> tuple[Note, ...]:
    if word_errors is None:
        source, given = Note("the model got the requests as text, not as clips", "text", REQUESTS), "as text"
    else:
        words = (
            f"the model's own transcripts of these clips have a word error rate of {100 * word_errors.value:.0f} % "
            f"[{100 * word_errors.low:.0f}, {100 * word_errors.high:.0f}] (n={word_errors.n}); each answer shows its "
            "transcript"
        )
        source, given = Note(words, "misheard", REQUESTS), "spoken by eSpeak NG"
    notes = [
        Note("a real model, but a small one (155M parameters): no 7B model was run", "small"),
        source,
        Note(
            f"calibrated on {len(calibration.twins)} twin pairs, {len(calibration.borderline)} borderline pairs and "
            f"{len(calibration.everyday)} everyday requests of {PAIRS}, {given}",
            "calibration",
        ),
        Note(
            "strengths and the gate's threshold were chosen on the tuning split, by the highest BRR", "tuning", TUNING
        ),
        Note("refusals are found by phrases, which is crude: read some answers", "judge"),
    ]
    if not gated:
        reason = steering.metadata.get("no_gate", "the gate opens for no harmful request at the rates that were tried")
        notes.append(Note(f"there is no gated row: {reason}", "gate"))
    return tuple(notes)
