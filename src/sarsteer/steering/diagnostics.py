"""What calibration reports about every layer, and what looks wrong in it.

Misreadings of the method (text-only arms, the mean over all positions, a basis from read speech) show in these numbers
before they show in broken answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sarsteer.steering.strength import ResolvedStrength
from sarsteer.steering.subspace import ablate

STRONG = 0.5
"""Share of the activation's norm above which steering tends to break text instead of causing refusals."""

WEAK_SHARE = 0.05
"""Kept share ‖v‖/‖r‖ below which ablation has removed nearly all of the refusal vector."""


@dataclass(frozen=True)
class LayerReport:
    """One decoder layer.

    Attributes:
        layer: 0-based index.
        refusal_norm: ‖r‖.
        vector_norm: ‖v‖, after ablation.
        kept: ‖v‖ / ‖r‖.
        activation_norm: median ‖h‖ at the last prompt token.
        relative_strength: α w ‖v‖ / median ‖h‖.
        explained: ablated share of the safe activations' variance, as far as the stored components contain it.
        weight: w, the layer's weight.

    """

    layer: int
    refusal_norm: float
    vector_norm: float
    kept: float
    activation_norm: float
    relative_strength: float
    explained: float
    weight: float = 1.0


def layer_reports(
    strength: ResolvedStrength,
    refusal: torch.Tensor,
    safe_basis: torch.Tensor,
    singular_values: torch.Tensor,
    activation_norms: torch.Tensor,
) -> list[LayerReport]:
    """A report of each layer at ``strength``; the tensors are those of the artifact."""
    vectors = ablate(refusal, safe_basis, strength.k, strength.lambda_)
    weights = strength.layer_weights or (1.0,) * len(refusal)
    squares = singular_values.double() ** 2
    reports = []
    for layer, (raw, vector) in enumerate(zip(refusal, vectors, strict=True)):
        r, v, h = float(raw.norm()), float(vector.norm()), float(activation_norms[layer])
        total = float(squares[layer].sum())
        reports.append(
            LayerReport(
                layer=layer,
                refusal_norm=r,
                vector_norm=v,
                kept=v / r if r else math.nan,
                activation_norm=h,
                relative_strength=abs(strength.alpha * weights[layer]) * v / h if h else math.nan,
                explained=float(squares[layer, : strength.k].sum()) / total if total else math.nan,
                weight=weights[layer],
            )
        )
    return reports


def findings(reports: list[LayerReport]) -> list[str]:
    """What looks wrong, one sentence each; empty if nothing does."""
    if max(report.refusal_norm for report in reports) == 0:
        return ["every refusal vector is zero: the refusal prompt changes nothing in this model"]
    notes = []
    strong = [r.layer for r in reports if r.relative_strength > STRONG]
    if strong:
        notes.append(f"alpha is high: it moves layers {_spans(strong)} by over {STRONG:.0%} of their activations' norm")
    thin = [r.layer for r in reports if r.kept < WEAK_SHARE]
    if thin:
        notes.append(
            f"ablation leaves under {WEAK_SHARE:.0%} of the refusal vector in layers {_spans(thin)}: lower k or lambda"
        )
    long = [r.layer for r in reports if r.activation_norm and r.refusal_norm > 1.5 * r.activation_norm]
    if long:
        notes.append(f"the refusal vectors of layers {_spans(long)} are longer than the activations")
    return notes


def _spans(layers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2, 5``."""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
