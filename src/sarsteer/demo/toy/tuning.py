"""Choose the strengths of the demo on calibration pairs that the vectors have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sarsteer.data.pairs import Pairs
from sarsteer.defenses.base import DefenseContext, build_defense
from sarsteer.defenses.built import UNDEFENDED
from sarsteer.defenses.registry import DEFENSES
from sarsteer.defenses.steered import steered
from sarsteer.demo.progress import Progress
from sarsteer.demo.toy.requests import RequestSet
from sarsteer.evaluation.results import Arm, CurvePoint
from sarsteer.judges.embedded import EmbeddedJudge, outcome
from sarsteer.runtime.shared import SharedModel
from sarsteer.stats.estimate import Estimate
from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.strength import Strength

ALPHAS = (0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3)
KS = (5, 10, 20)
GATED_ALPHAS = (0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
"""Larger strengths: a gated request is steered only in the upper layers, and most safe requests are not steered."""
MAX_LOST = 0.03
"""The share of safe answers that a strength may lose on the tuning pairs: a little over half of the five points that
may be lost on held-out pairs, because fifty pairs give only a rough rate."""


@dataclass(frozen=True)
class Trial:
    """The tuning pairs at one strength.

    Attributes:
        alpha, k: the strength; k = 0 is refusal steering without ablation.
        arm: answers and numbers.
        correct_safe: the share of safe requests answered correctly.

    """

    alpha: float
    k: int
    arm: Arm
    correct_safe: Estimate

    @property
    def spec(self) -> str:
        """The defense with its strength, as ``sarsteer evaluate --defense`` takes it."""
        return f"sarsteer:alpha={self.alpha:g},k={self.k}" if self.k else f"refusal-steering:alpha={self.alpha:g}"


@dataclass(frozen=True)
class Tuned:
    """The chosen strengths.

    Attributes:
        trials: at every strength.
        undefended: without a defense.
        raw, ablated: the chosen trials without and with ablation.
        gated_alpha: the strength of gated steering; None without a gate.

    """

    trials: tuple[Trial, ...]
    undefended: Trial
    raw: Trial
    ablated: Trial
    gated_alpha: float | None


def tune(shared: SharedModel, steering: Steering, pairs: Pairs, gate: Gate | None, progress: Progress) -> Tuned:
    """Answer ``pairs`` at every strength, and choose.

    Args:
        shared: the model.
        steering: calibrated on other pairs.
        pairs: to tune on.
        gate: of the steering that will be used.
        progress: called for each strength.

    """
    requests = RequestSet.encode("tuning pairs", [*pairs.harmful, *pairs.safe], EmbeddedJudge(), shared, progress)
    arm = requests.arm("none", UNDEFENDED)
    undefended = Trial(0.0, 0, arm, requests.correct(arm))
    trials = _sweep(requests, steering, undefended, progress)
    harmful = replace(requests, items=requests.items[: len(pairs)], prompts=requests.prompts[: len(pairs)])
    return Tuned(
        tuple(trials),
        undefended,
        raw=choose([trial for trial in trials if trial.k == 0], undefended),
        ablated=choose([trial for trial in trials if trial.k > 0], undefended),
        gated_alpha=None if gate is None else _choose_gated(harmful, steering, gate, progress),
    )


def _sweep(requests: RequestSet, steering: Steering, undefended: Trial, progress: Progress) -> list[Trial]:
    """The requests at every strength. For each k the sweep ends when most answers break."""
    stage = "Tuning the strength"
    trials: list[Trial] = []
    total, done = len(ALPHAS) * (1 + len(KS)), 0
    context = DefenseContext(requests.shared.model, steering=steering)
    for k in (0, *KS):
        label = f"sarsteer:k={k}" if k else "refusal-steering"
        for index, alpha in enumerate(ALPHAS):
            progress(stage, done + index, total)
            spec = f"{label}{',' if k else ':'}alpha={alpha:g}"
            arm = requests.arm(label, build_defense(DEFENSES.parse(spec), context), undefended.arm)
            trial = Trial(alpha, k, arm, requests.correct(arm))
            trials.append(trial)
            assert arm.summary.broken is not None
            if arm.summary.broken.value > 0.5 or trial.correct_safe.value < 0.2:
                break
        done += len(ALPHAS)
    progress(stage, total, total)
    return trials


def choose(trials: Sequence[Trial], undefended: Trial) -> Trial:
    """The trial with the highest BRR of those that lose at most ``MAX_LOST`` of the correct safe answers.

    If all lose more, the one with the smallest strength.
    """
    floor = undefended.correct_safe.value - MAX_LOST
    allowed = [trial for trial in trials if trial.correct_safe.value >= floor - 1e-9]
    if not allowed:
        return min(trials, key=lambda trial: trial.alpha)
    return max(allowed, key=lambda trial: (_brr(trial), -trial.alpha))


def _choose_gated(requests: RequestSet, steering: Steering, gate: Gate, progress: Progress) -> float:
    """The strength at which most harmful ``requests`` are refused and fewest break, with the gate open for all.

    What gated steering costs safe requests depends on the gate's threshold, which calibration set.
    """
    stage = "Tuning the gated strength"
    points: list[tuple[float, float]] = []
    always_open = replace(gate, threshold=-1e30)
    for done, alpha in enumerate(GATED_ALPHAS):
        progress(stage, done, len(GATED_ALPHAS))
        strength = steering.resolve(Strength(alpha=alpha, k=0, gate=always_open))
        defense = steered("sarsteer", strength, strength.settings, steering=steering.digest)
        outcomes = [outcome(text) for text in requests.answers(defense)]
        points.append((outcomes.count("refused") - outcomes.count("broken"), -alpha))
        if outcomes.count("broken") > len(outcomes) / 2:
            break
    progress(stage, len(GATED_ALPHAS), len(GATED_ALPHAS))
    return -max(points)[1]


def arms_and_curve(tuned: Tuned) -> tuple[list[Arm], list[CurvePoint]]:
    """For the report: no defense and the best trial for each k as arms, the other trials as points of the curve."""
    trials = tuned.trials
    best = [choose([t for t in trials if t.k == k], tuned.undefended) for k in dict.fromkeys(t.k for t in trials)]
    points = [
        CurvePoint(trial.arm.benchmark, trial.arm.defense, trial.alpha, trial.arm.summary)
        for trial in trials
        if all(trial is not one for one in best)
    ]
    return [tuned.undefended.arm, *(trial.arm for trial in best)], points


def _brr(trial: Trial) -> float:
    assert trial.arm.summary.brr is not None
    return trial.arm.summary.brr.value
