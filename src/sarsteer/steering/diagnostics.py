"""What calibration reports of every layer, and what looks wrong in it.

Misreadings of the method (text-only arms, the mean over all positions, a basis from read speech) show in these
numbers before they show in broken answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering

STRONG = 0.5
"""Share of the activation's norm beyond which steering tends to break text rather than to refuse."""

WEAK_SHARE = 0.05
"""Kept share ‖v‖/‖r‖ under which ablation has removed nearly all of the refusal vector."""


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
        explained: share of the safe activations' variance, as far as the stored components hold it, that is ablated.
        weight: w, times which the layer is steered; 1 unless the artifact's defaults say otherwise.

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
    steering: Steering, alpha: float, k: int | None = None, lambda_: float | None = None
) -> list[LayerReport]:
    """A report of each layer at these strengths."""
    vectors = steering.vectors(k, lambda_, [1.0] * len(steering.refusal))
    weights = steering.default_layer_weights
    k = steering.defaults[1] if k is None else k
    squares = steering.singular_values.double() ** 2
    rows = []
    for layer, (refusal, vector) in enumerate(zip(steering.refusal, vectors, strict=True)):
        r, v = float(refusal.norm()), float(vector.norm())
        h = float(steering.activation_norms[layer])
        total = float(squares[layer].sum())
        rows.append(
            LayerReport(
                layer=layer,
                refusal_norm=r,
                vector_norm=v,
                kept=v / r if r else math.nan,
                activation_norm=h,
                relative_strength=abs(alpha * weights[layer]) * v / h if h else math.nan,
                explained=float(squares[layer, :k].sum()) / total if total else math.nan,
                weight=weights[layer],
            )
        )
    return rows


def findings(reports: list[LayerReport]) -> list[str]:
    """What is far off, in words; empty where all is well."""
    found = []
    norms = torch.tensor([r.refusal_norm for r in reports])
    if float(norms.max()) == 0:
        found.append("every refusal vector is zero: the refusal prompt changes nothing in this model")
        return found
    strong = [r.layer for r in reports if r.relative_strength > STRONG]
    if strong:
        found.append(f"alpha is high: it moves layers {_spans(strong)} by over {STRONG:.0%} of their activations' norm")
    thin = [r.layer for r in reports if r.kept < WEAK_SHARE]
    if thin:
        found.append(
            f"ablation leaves under {WEAK_SHARE:.0%} of the refusal vector in layers {_spans(thin)}: lower k or lambda"
        )
    huge = [r.layer for r in reports if r.activation_norm and r.refusal_norm > 1.5 * r.activation_norm]
    if huge:
        found.append(f"refusal vectors of layers {_spans(huge)} are longer than the activations themselves")
    return found


def _spans(layers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2, 5``."""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
