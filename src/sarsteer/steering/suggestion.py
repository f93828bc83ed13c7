"""Strengths in closed form: no request is answered, only the calibrated vectors are looked at.

A rule of thumb to begin a search with, or to use where there is no time for one. What a model does at these strengths
has to be measured all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering

RELATIVE_STRENGTH = 0.07
"""Share of the activations' norm, in the median layer, that α moves them by. The paper's settings move them by a few
percent; on the embedded model α = 0.1 is 7.6 %, refuses, and hardly breaks; twice as much breaks."""
EXPLAINED = 0.5
"""Share of the safe activations' variance that is ablated, in the median layer."""
KEPT = 0.5
"""Share of the refusal vector that ablation leaves at the least, in the median layer."""


@dataclass(frozen=True)
class Suggestion:
    """Strengths, and what they rest on.

    Attributes:
        alpha: the α at which ‖α v_l‖ is ``relative_strength`` of ‖h_l‖ in the median layer; 0 where every vector is
            zero.
        k: the least number of safe components that explain ``explained`` of the variance in the median layer, as far
            as the stored components hold it, fewer where they would take more than half of the refusal vector.
        lambda_: 1, a projection: what is ablated is ablated whole.
        relative_strength, explained, kept: of the median layer, at these strengths.

    """

    alpha: float
    k: int
    lambda_: float
    relative_strength: float
    explained: float
    kept: float


def suggest(steering: Steering) -> Suggestion:
    """α from ‖v_l‖ / ‖h_l‖, k from the explained variance, λ = 1."""
    squares = steering.singular_values.double() ** 2
    totals = squares.sum(1, keepdim=True)
    shares = torch.where(totals > 0, squares.cumsum(1) / totals, torch.ones_like(squares))  # [L, K]
    alike = [1.0] * len(steering.refusal)
    norms = steering.refusal.double().norm(dim=1)

    def kept(k: int) -> float:
        return _median((steering.vectors(k, 1.0, alike).double().norm(dim=1) / norms)[norms > 0])

    wanted = next((k for k in range(1, steering.max_k + 1) if _median(shares[:, k - 1]) >= EXPLAINED), steering.max_k)
    k = next((k for k in range(wanted, 0, -1) if kept(k) >= KEPT), 0)
    moved = (steering.vectors(k, 1.0, alike).double().norm(dim=1) / steering.activation_norms.double())[norms > 0]
    ratio = _median(moved[moved.isfinite()])
    alpha = RELATIVE_STRENGTH / ratio if ratio > 0 else 0.0
    return Suggestion(
        alpha=float(f"{alpha:.3g}"),
        k=k,
        lambda_=1.0,
        relative_strength=alpha * ratio if ratio > 0 else 0.0,
        explained=_median(shares[:, k - 1]) if k else 0.0,
        kept=kept(k),
    )


def _median(values: torch.Tensor) -> float:
    return float(values.quantile(0.5)) if len(values) else math.nan
