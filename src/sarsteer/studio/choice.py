"""What a visitor chooses: strength and gate, and the ranges of the controls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from sarsteer.steering.artifact import Steering
from sarsteer.steering.strength import ResolvedStrength, Strength


@dataclass(frozen=True, eq=False)
class Artifact:
    """A steering file that a visitor uses: its content, and its name without a folder."""

    steering: Steering
    name: str

    @classmethod
    def load(cls, path: Path) -> Artifact:
        """Read a file; raises ``ArtifactError``."""
        return cls(Steering.load(path), path.name)


@dataclass(frozen=True)
class Choice:
    """The values of the controls.

    Attributes:
        alpha: steering strength α.
        k: number of ablated components.
        lambda_: ablation coefficient λ.
        gated: whether only requests that open the gate are steered.
        threshold: of the gate; None for the file's.

    """

    alpha: float
    k: int
    lambda_: float
    gated: bool
    threshold: float | None = None

    def resolve(self, steering: Steering) -> ResolvedStrength:
        """The vectors, alpha and gate in use.

        Raises:
            SteeringError: a value is invalid, or the gate would never open.

        """
        gate = steering.choose_gate(True) if self.gated else None
        # an unmoved slider shows the file's threshold rounded; the exact one keeps the error rates that it states
        if gate is not None and self.threshold is not None and round(gate.threshold, 2) != round(self.threshold, 2):
            gate = gate.with_threshold(self.threshold)
        return steering.resolve(Strength(self.alpha, self.k, self.lambda_, gate=False if gate is None else gate))


@dataclass(frozen=True)
class Ranges:
    """The largest values of the controls, and where the threshold's begin."""

    alpha: float
    k: int
    lambda_: float
    threshold: tuple[float, float]


def defaults(steering: Steering) -> Choice:
    """The file's own strength and gate."""
    alpha, k, lambda_ = steering.defaults
    gate = steering.gate
    return Choice(alpha, k, lambda_, steering.gate_by_default, None if gate is None else round(gate.threshold, 2))


def ranges(steering: Steering) -> Ranges:
    """The ranges of the controls for a file."""
    alpha, _, lambda_ = steering.defaults
    low, high = -3.0, 3.0
    if steering.gate is not None:
        held_out = steering.gate.metadata.get("held_out") or {}
        scores = [*held_out.get("safe", ()), *held_out.get("harmful", ()), steering.gate.threshold]
        low, high = min(scores), max(scores)
    return Ranges(
        alpha=max(0.5, 5 * alpha),
        k=max(1, steering.max_k),
        lambda_=max(2.0, 2 * lambda_),
        threshold=(math.floor(10 * low) / 10, math.ceil(10 * high) / 10),
    )
