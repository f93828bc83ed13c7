"""A strength in closed form, from the calibrated vectors only; no request is answered.

It is a rule of thumb: a point to start a search from, or a setting when there is no time for a search. What the model
does at this strength must still be measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sarsteer.steering.subspace import ablate

TOTAL_STRENGTH = 0.56
"""Sum over the layers of the share ‖α v_l‖ / ‖h_l‖, with the median layer's share for each. A layer's vector remains in
the residual stream, so a deeper model needs a smaller share in each layer: 7 % in the toy's 8 layers, where the toy
refuses and hardly breaks answers (twice as much breaks them), is 1.75 % in the 32 layers of a 7B model. The paper's
settings move the activations of a layer by a few percent."""
EXPLAINED = 0.5
"""Share of the safe activations' variance that is ablated in the median layer."""
KEPT = 0.5
"""Smallest share of the refusal vector that ablation leaves in the median layer."""


@dataclass(frozen=True)
class Suggestion:
    """A strength, and the numbers it is based on.

    Attributes:
        alpha: the α at which ‖α v_l‖ is ``relative_strength`` of ‖h_l‖ in the median layer, which is
            ``TOTAL_STRENGTH`` divided by the number of vectors that are not zero; 0 if every vector is zero.
        k: the smallest number of safe components that explain ``explained`` of the variance in the median layer, as far
            as the stored components contain it; fewer if they would remove more than half of the refusal vector.
        lambda_: 1, a projection: the ablated part is removed completely.
        relative_strength, explained, kept: in the median layer, at this strength.

    """

    alpha: float
    k: int
    lambda_: float
    relative_strength: float
    explained: float
    kept: float


def suggest(
    refusal: torch.Tensor, safe_basis: torch.Tensor, singular_values: torch.Tensor, activation_norms: torch.Tensor
) -> Suggestion:
    """α from ‖v_l‖ / ‖h_l‖, k from the explained variance, λ = 1; the tensors are those of the artifact."""
    squares = singular_values.double() ** 2
    totals = squares.sum(1, keepdim=True)
    shares = torch.where(totals > 0, squares.cumsum(1) / totals, torch.ones_like(squares))  # [L, K]
    refusal_norms, max_k = refusal.double().norm(dim=1), safe_basis.shape[1]

    def vector_norms(k: int) -> torch.Tensor:
        norms: torch.Tensor = ablate(refusal, safe_basis, k, 1.0).double().norm(dim=1)
        return norms

    def kept(k: int) -> float:
        return _median((vector_norms(k) / refusal_norms)[refusal_norms > 0])

    wanted = next((k for k in range(1, max_k + 1) if _median(shares[:, k - 1]) >= EXPLAINED), max_k)
    k = next((k for k in range(wanted, 0, -1) if kept(k) >= KEPT), 0)
    ratios = (vector_norms(k) / activation_norms.double())[refusal_norms > 0]
    ratio = _median(ratios[ratios.isfinite()])
    alpha = TOTAL_STRENGTH / (len(ratios) * ratio) if ratio > 0 else 0.0
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
