"""What a gradient attack minimizes.

``L = w CE(target) + β (margin + projection)``: the cross-entropy of the wanted answer, and what the defense looks at.
The margin is how far the gate's score (and its distance) are above the values at which it closes, with a reserve; the
projection is how far the last prompt token leans toward the vectors that the defense adds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sarsteer.attacks.gradient.forward import Output
from sarsteer.steering.strength import ResolvedStrength

RESERVE = 0.1
"""How far below its threshold, in units of the score, the attacker wants the gate: 16-bit rounding must not open it."""


@dataclass(frozen=True)
class Weights:
    """The weights of the objective.

    Attributes:
        answer: w, of the wanted answer.
        defense: β, of the gate's margin and the projection.
        cancel: of the distance to the undefended activations; see ``cancellation``.

    """

    answer: float = 1.0
    defense: float = 1.0
    cancel: float = 0.0


@dataclass(frozen=True)
class Terms:
    """The parts of the objective at one clip, each a scalar with its graph."""

    answer: torch.Tensor
    margin: torch.Tensor
    projection: torch.Tensor
    cancel: torch.Tensor

    def total(self, weights: Weights, beta: float) -> torch.Tensor:
        """``L`` at this β."""
        return weights.answer * self.answer + beta * (self.margin + self.projection) + weights.cancel * self.cancel


def terms(output: Output, target: torch.Tensor, strength: ResolvedStrength | None, clean: torch.Tensor) -> Terms:
    """The objective's parts.

    Args:
        output: of the forward on the attacked clip.
        target: ``[M]``, the wanted answer.
        strength: what the defense adds; None without one.
        clean: ``[L, D]``, the undefended activations of the clean clip at the last prompt token.

    """
    logits = output.logits.float() if output.logits.dtype != torch.float64 else output.logits
    answer = torch.nn.functional.cross_entropy(logits, target.to(logits.device))
    zero = torch.zeros_like(answer)
    if strength is None:
        return Terms(answer, zero, zero, zero)
    reading, gate = output.reading, strength.gate
    margin = zero
    if gate is not None and reading.score is not None:
        margin = (reading.score - gate.threshold + RESERVE).clamp(min=0)
        if reading.distance is not None and gate.limit is not None:
            margin = margin + (reading.distance / gate.limit - 1 + RESERVE).clamp(min=0)
    return Terms(
        answer,
        margin.to(answer),
        projection(reading.activations, strength, clean).to(answer),
        cancellation(reading.activations, strength, clean).to(answer),
    )


def projection(activations: torch.Tensor, strength: ResolvedStrength, clean: torch.Tensor) -> torch.Tensor:
    """The mean over the steered layers of ``⟨h, v⟩ / (‖v‖ ‖h_clean‖)``."""
    added, kept = _steered(strength, activations)
    if not len(kept):
        return activations.new_zeros(())
    norms: torch.Tensor = clean[kept].to(activations).norm(dim=-1)
    unit = added / added.norm(dim=-1, keepdim=True)
    share: torch.Tensor = (activations[kept] * unit).sum(-1) / norms
    return share.mean()


def cancellation(activations: torch.Tensor, strength: ResolvedStrength, clean: torch.Tensor) -> torch.Tensor:
    """The mean over the steered layers of ``‖h + αv − h_clean‖² / ‖αv‖²``: 0 where a clip undoes the steering."""
    added, kept = _steered(strength, activations)
    if not len(kept):
        return activations.new_zeros(())
    left = activations[kept] + added - clean[kept].to(activations)
    return (left.square().sum(-1) / added.square().sum(-1)).mean()


def _steered(strength: ResolvedStrength, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added to the layers that are steered, ``[S, D]``, and their indices ``[S]``."""
    deltas = strength.deltas
    kept = deltas.any(dim=1).nonzero().flatten()
    return deltas[kept].to(like), kept.to(like.device)
