"""What ``sarsteer demo`` runs, without printing a word of it.

Strengths are chosen on the calibration pairs alone; the held-out pairs are answered once under each defence, with
the strengths that were chosen before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sarsteer import tiny
from sarsteer.data.manifest import Item, load_items
from sarsteer.data.pairs import Pairs, load_pairs, manifest_path
from sarsteer.judges import Outcome
from sarsteer.judges.embedded import is_correct, outcome
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.loading import load_model
from sarsteer.models.prompt import Prompt
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.stats.estimate import Estimate
from sarsteer.stats.rates import balanced_refusal_rate, rate
from sarsteer.steering.artifact import Steering
from sarsteer.steering.calibration import calibrate
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.handle import SteeringHandle
from sarsteer.steering.strength import Strength

ALPHAS = (0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3)
KS = (5, 10, 20)
GATED_ALPHAS = (0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
"""Larger than the rest: a gated request is steered in the upper layers alone, and safe ones are left alone."""
TUNING_PAIRS = 50
MAX_LOST = 0.03
"""Share of safe answers that a tuned strength may lose on the tuning pairs: a little over half of the five points that
may be lost on held-out ones, since fifty pairs tell a rate only roughly."""
MAX_NEW_TOKENS = 32
BATCH = 64

Report = Callable[[str, int, int], None]
"""Called with the stage, what is done of it, and its whole."""


@dataclass(frozen=True)
class Setting:
    """A strength: α, how many principal components are ablated (λ = 1), and whether the gate asks first."""

    alpha: float
    k: int
    gated: bool = False


@dataclass(frozen=True)
class Answers:
    """What a model said to pairs under one defence."""

    harmful: tuple[str, ...]
    safe: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of the table: a defence and what it measured."""

    name: str
    setting: Setting | None
    asr: Estimate
    rr_harmful: Estimate
    rr_safe: Estimate
    brr: Estimate
    correct_safe: Estimate
    broken: Estimate
    everyday: Estimate
    answers: Answers = field(repr=False)


@dataclass(frozen=True)
class CurvePoint:
    """Calibration pairs at one strength."""

    setting: Setting
    asr: Estimate
    rr_harmful: Estimate
    rr_safe: Estimate
    brr: Estimate
    correct_safe: Estimate
    broken: Estimate


@dataclass(frozen=True)
class DemoResult:
    """Everything the report shows."""

    model: str
    steering: Steering = field(repr=False)
    rows: tuple[Row, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    undefended_tuning: CurvePoint | None = None
    test: Pairs = field(default_factory=lambda: Pairs(()), repr=False)

    def row(self, name: str) -> Row:
        """The row of a defence."""
        return next(row for row in self.rows if row.name == name)


def run(report: Report, model: AudioLanguageModel | None = None) -> DemoResult:
    """Tune on calibration pairs, calibrate on all of them, answer the held-out pairs and the everyday clips."""
    model = model or load_model(tiny.NAME)
    calibration, test = load_pairs(tiny.NAME, "calibration"), load_pairs(tiny.NAME, "test")
    everyday = load_items(manifest_path(tiny.NAME, "everyday"))
    # Strengths are chosen on pairs that the vectors have not seen: ablation protects the very clips that made the safe
    # subspace better than any others. The vectors that are used then come from all pairs.
    half = calibrate(
        model,
        calibration[:-TUNING_PAIRS],
        progress=lambda done, total: report("Calibrating on half of the pairs", done, total),
    )
    curve, undefended = sweep(model, half, calibration[-TUNING_PAIRS:], report)
    steering = calibrate(model, calibration, progress=lambda done, total: report("Calibrating on all", done, total))
    plain = choose([p for p in curve if p.setting.k == 0], undefended)
    ablated = choose([p for p in curve if p.setting.k > 0], undefended)

    heard = hear(model, test, INSTRUCTION, report, "Hearing the held-out requests")
    daily = prepare(model, [(item, item.text or "") for item in everyday], report, "Hearing the everyday clips")
    warned = hear(model, test, INSTRUCTION + REFUSAL_PROMPT, report, "Adding the refusal prompt")
    daily_warned = model.prepare([item.turn((item.text or "") + REFUSAL_PROMPT) for item in everyday])

    gated = choose_gated(model, half, steering.gate, calibration[-TUNING_PAIRS:], report) if steering.gate else None

    arms: list[tuple[str, Setting | None, tuple[list[Prompt], list[Prompt]], list[Prompt]]] = [
        ("no defense", None, heard, daily),
        ("refusal prompt", None, warned, daily_warned),
        ("refusal steering, no ablation", plain, heard, daily),
        ("SARSteer", ablated, heard, daily),
    ]
    if gated is not None:
        arms.append(("SARSteer, gated", gated, heard, daily))
    rows = []
    for index, (name, setting, requests, clips) in enumerate(arms):
        report("Answering under each defense", index, len(arms))
        handle = steering.attach(model, setting.alpha, setting.k, gate=setting.gated) if setting is not None else None
        try:
            answers = answer(model, requests)
            said = model.generate(clips, MAX_NEW_TOKENS, batch_size=BATCH)
        finally:
            if handle is not None:
                handle.remove()
        rows.append(Row(name, setting, everyday=_right(said, everyday), answers=answers, **measure(answers, test)))
    report("Answering under each defense", len(arms), len(arms))
    return DemoResult(model.name, steering, tuple(rows), tuple(curve), undefended, test)


def prepare(model: AudioLanguageModel, items: Sequence[tuple[Item, str]], report: Report, stage: str) -> list[Prompt]:
    """Prompts of clips, each with its text, with progress."""
    prompts: list[Prompt] = []
    for start in range(0, len(items), BATCH):
        report(stage, start, len(items))
        prompts += model.prepare([item.turn(text) for item, text in items[start : start + BATCH]])
    report(stage, len(items), len(items))
    return prompts


def hear(
    model: AudioLanguageModel, pairs: Pairs, text: str, report: Report, stage: str
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts of the harmful and of the safe clips."""
    prompts = prepare(model, [(item, text) for item in (*pairs.harmful, *pairs.safe)], report, stage)
    return prompts[: len(pairs)], prompts[len(pairs) :]


def answer(model: AudioLanguageModel, requests: tuple[list[Prompt], list[Prompt]]) -> Answers:
    """Answers to the harmful and to the safe requests."""
    harmful, safe = requests
    said = model.generate([*harmful, *safe], MAX_NEW_TOKENS, batch_size=BATCH)
    return Answers(tuple(said[: len(harmful)]), tuple(said[len(harmful) :]))


def measure(answers: Answers, pairs: Pairs) -> dict[str, Any]:
    """The metrics of a table's row or a curve's point."""
    harmful: list[Outcome] = [outcome(text) for text in answers.harmful]
    safe: list[Outcome] = [outcome(text) for text in answers.safe]
    return {
        "asr": rate([o == "complied" for o in harmful]),
        "rr_harmful": rate([o == "refused" for o in harmful]),
        "rr_safe": rate([o == "refused" for o in safe]),
        "brr": balanced_refusal_rate([o == "refused" for o in harmful], [o == "refused" for o in safe]),
        "correct_safe": rate([is_correct(t, item) for t, item in zip(answers.safe, pairs.safe, strict=True)]),
        "broken": rate([o == "broken" for o in (*harmful, *safe)]),
    }


def sweep(
    model: AudioLanguageModel, steering: Steering, pairs: Pairs, report: Report
) -> tuple[list[CurvePoint], CurvePoint]:
    """Calibration pairs at every strength, and undefended. A curve ends where most answers break."""
    stage = "Tuning on the other half"
    requests = hear(model, pairs, INSTRUCTION, lambda *_: None, "")
    undefended = CurvePoint(Setting(0.0, 0), **measure(answer(model, requests), pairs))
    curve: list[CurvePoint] = []
    total, done = len(ALPHAS) * (1 + len(KS)), 0
    handle: SteeringHandle = steering.attach(model, ALPHAS[0], 0)
    try:
        for k in (0, *KS):
            for alpha in ALPHAS:
                report(stage, done, total)
                done += 1
                handle.apply(steering.resolve(Strength(alpha, k)))
                point = CurvePoint(Setting(alpha, k), **measure(answer(model, requests), pairs))
                curve.append(point)
                if point.broken.value > 0.5 or point.correct_safe.value < 0.2:
                    done += len(ALPHAS) - ALPHAS.index(alpha) - 1
                    break
    finally:
        handle.remove()
    report(stage, total, total)
    return curve, undefended


def choose(points: Sequence[CurvePoint], undefended: CurvePoint) -> Setting:
    """The strength with the highest BRR among those that lose at most ``MAX_LOST`` of the correct safe answers."""
    floor = undefended.correct_safe.value - MAX_LOST
    kept = [p for p in points if p.correct_safe.value >= floor - 1e-9]
    best = max(kept or points, key=lambda p: (p.brr.value, -p.setting.alpha) if kept else (-p.setting.alpha,))
    return best.setting


def choose_gated(model: AudioLanguageModel, steering: Steering, gate: Gate, pairs: Pairs, report: Report) -> Setting:
    """The strength at which most harmful requests are refused and fewest break, the gate taken as open.

    What it costs safe requests is the gate's threshold's matter, which calibration has set.
    """
    stage = "Tuning what the gate lets through"
    requests = model.prepare([item.turn(INSTRUCTION) for item in pairs.harmful])
    points: list[tuple[float, float]] = []
    always = replace(gate, threshold=-1e30)
    with steering.on(model, 0.0, 0, gate=always) as handle:
        for done, alpha in enumerate(GATED_ALPHAS):
            report(stage, done, len(GATED_ALPHAS))
            handle.alpha = alpha
            said = [outcome(text) for text in model.generate(requests, MAX_NEW_TOKENS, batch_size=BATCH)]
            points.append((said.count("refused") - said.count("broken"), -alpha))
            if said.count("broken") > len(said) / 2:
                break
    report(stage, len(GATED_ALPHAS), len(GATED_ALPHAS))
    return Setting(-max(points)[1], 0, gated=True)


def _right(said: Sequence[str], items: Sequence[Item]) -> Estimate:
    return rate([is_correct(text, item) for text, item in zip(said, items, strict=True)])
