"""Choose each method's strength, and the gate's threshold, on the tuning split. The test split takes no part.

Every method is chosen by the same rule: the highest balanced refusal rate (BRR), and of equals the smaller strength.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sarsteer.defenses.base import DefenseContext, build_defense
from sarsteer.defenses.built import UNDEFENDED
from sarsteer.defenses.registry import DEFENSES
from sarsteer.defenses.steered import steered
from sarsteer.demo.arms import judged_arm
from sarsteer.demo.progress import Progress
from sarsteer.demo.real.requests import INSTRUCTION, Ask, Requests
from sarsteer.errors import SteeringError
from sarsteer.evaluation.results import Arm
from sarsteer.judges.keywords import KeywordJudge
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.runtime.answerer import Answerer, Reply
from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.strength import Strength

ALPHAS = (0.05, 0.1, 0.2)
PAPER_ALPHAS = (0.1, 0.2, 0.4)
"""Ablation shortens the vectors, so SARSteer takes larger strengths than refusal steering."""
PAPER_K = 10
GATED_ALPHAS = (0.2, 0.4, 0.6)
"""Gated requests are steered in the layers above the gate only, and safe requests hardly ever."""
TARGETS = (0.01, 0.02, 0.05, 0.1)
"""Shares of calibration's held-out safe requests that may open the gate."""
MAX_NEW_TOKENS = 14
"""Enough for the phrase of a refusal."""

REFUSAL_STEERING, PUBLISHED, GATED = "refusal steering", "SARSteer as published", "SARSteer, gated"


@dataclass(frozen=True)
class Trial:
    """The tuning requests under one setting.

    Attributes:
        method: its name in tables.
        alpha: the strength.
        k: number of ablated components.
        target: the gate's target false-positive rate; None without a gate.
        arm: answers and numbers.

    """

    method: str
    alpha: float
    k: int
    target: float | None
    arm: Arm

    @property
    def spec(self) -> str:
        """The defense as ``sarsteer evaluate --defense`` takes it."""
        if self.method == REFUSAL_STEERING:
            return f"refusal-steering:alpha={self.alpha:g}"
        gate = "" if self.target is None else ",gate=hard"
        return f"sarsteer:alpha={self.alpha:g},k={self.k}{gate}"

    @property
    def brr(self) -> float:
        """The balanced refusal rate."""
        assert self.arm.summary.brr is not None, "the tuning requests are of both kinds"
        return self.arm.summary.brr.value


@dataclass(frozen=True)
class Tuned:
    """What was tried and chosen.

    Attributes:
        undefended: the tuning requests without a defense.
        trials: all of them.
        chosen: the best trial of each method, by its name; without the gated one if there is no gate.
        gate: with the chosen threshold.

    """

    undefended: Arm
    trials: tuple[Trial, ...]
    chosen: dict[str, Trial]
    gate: Gate | None


def tune(
    requests: Requests, model: AudioLanguageModel, answerer: Answerer, steering: Steering, progress: Progress
) -> Tuned:
    """Answer the tuning requests at every strength, and choose.

    Gated settings need no answers of their own for each threshold: a request that does not open the gate gets its
    undefended answer, and one that does the answer under an open gate.
    """
    plans: list[tuple[str, float, int]] = [(REFUSAL_STEERING, alpha, 0) for alpha in ALPHAS]
    plans += [(PUBLISHED, alpha, PAPER_K) for alpha in PAPER_ALPHAS]
    if steering.gate is not None:
        plans += [(GATED, alpha, 0) for alpha in GATED_ALPHAS]
    context = DefenseContext(model, steering=steering)
    asks = [Ask(UNDEFENDED, MAX_NEW_TOKENS)]
    for method, alpha, k in plans:
        if method == GATED:
            assert steering.gate is not None
            always = replace(steering.gate, threshold=-1e30, mode="hard")
            strength = steering.resolve(Strength(alpha=alpha, k=k, gate=always))
            defense = steered("sarsteer", strength, strength.settings, steering=steering.digest)
        else:
            name = "refusal-steering" if method == REFUSAL_STEERING else "sarsteer"
            spec = f"{name}:alpha={alpha:g}" + (f",k={k},gate=off" if k else "")
            defense = build_defense(DEFENSES.parse(spec), context)
        asks.append(Ask(defense, MAX_NEW_TOKENS))
    replies = requests.answer(answerer, asks, progress)
    plain = [reply.text for reply in replies[0]]
    undefended = _arm(requests, "no defense", {"kind": "none"}, plain, None)
    trials: list[Trial] = []
    for (method, alpha, k), given in zip(plans, replies[1:], strict=True):
        if method != GATED:
            texts = [reply.text for reply in given]
            settings = {"alpha": alpha, "k": k}
            trials.append(Trial(method, alpha, k, None, _arm(requests, method, settings, texts, undefended)))
            continue
        for target, gate in _gates(steering.gate).items():
            opened = [_opens(gate, reply) for reply in given]
            texts = [reply.text if is_open else text for reply, is_open, text in zip(given, opened, plain, strict=True)]
            settings = {"alpha": alpha, "k": k, "target_fpr": target}
            trials.append(Trial(method, alpha, k, target, _arm(requests, method, settings, texts, undefended)))
    chosen = {
        method: choose([trial for trial in trials if trial.method == method])
        for method in dict.fromkeys(trial.method for trial in trials)
    }
    gated = chosen.get(GATED)
    chosen_gate = None if gated is None or gated.target is None else _gates(steering.gate)[gated.target]
    return Tuned(undefended, tuple(trials), chosen, chosen_gate)


def choose(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest BRR; of equals the smaller strength, then the stricter gate."""
    return max(trials, key=lambda trial: (trial.brr, -trial.alpha, -(trial.target or 0)))


def _gates(gate: Gate | None) -> dict[float, Gate]:
    """The gate at each target that it can reach."""
    gates: dict[float, Gate] = {}
    for target in TARGETS if gate is not None else ():
        try:
            assert gate is not None
            gates[target] = gate.with_mode("hard").with_target_fpr(target)
        except SteeringError:
            continue  # it would open for no harmful request
    return gates


def _opens(gate: Gate, reply: Reply) -> bool:
    decision = reply.details["gate"]
    return bool(decision["out_of_distribution"]) or not decision["score"] <= gate.threshold


def _arm(
    requests: Requests, method: str, settings: Mapping[str, Any], texts: Sequence[str], undefended: Arm | None
) -> Arm:
    whole = {**settings, "max_new_tokens": MAX_NEW_TOKENS, "decoding": "greedy"}
    said = [INSTRUCTION] * len(texts)
    return judged_arm(requests.name, method, whole, requests.items, texts, said, KeywordJudge(), undefended)
