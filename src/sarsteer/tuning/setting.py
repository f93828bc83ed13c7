"""One configuration of the defense: everything that is chosen when a steering is used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from sarsteer.steering.artifact import Steering


@dataclass(frozen=True)
class Setting:
    """Strengths, and where they apply.

    Attributes:
        alpha: steering strength.
        k: safe components ablated.
        lambda_: ablation coefficient.
        layer_weights: one a decoder layer; the paper's are all 1.

    """

    alpha: float
    k: int
    lambda_: float
    layer_weights: tuple[float, ...]

    @classmethod
    def of(cls, steering: Steering, alpha: float, k: int, lambda_: float = 1.0) -> Setting:
        """All layers alike, k within the steering's rank."""
        return cls(alpha, min(k, steering.max_k), lambda_, (1.0,) * len(steering.refusal))

    def vectors(self, steering: Steering) -> torch.Tensor:
        """``[L, D]``, without α."""
        return steering.vectors(self.k, self.lambda_, self.layer_weights)

    def defaults_of(self, steering: Steering) -> Steering:
        """``steering`` with this setting as its own."""
        return steering.with_defaults(
            alpha=self.alpha, k=self.k, lambda_=self.lambda_, layer_weights=self.layer_weights
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as files keep them."""
        return {**asdict(self), "layer_weights": list(self.layer_weights)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Setting:
        """What ``to_json`` made."""
        return cls(**{**data, "layer_weights": tuple(data["layer_weights"])})

    def __str__(self) -> str:
        return f"α {self.alpha:g}, k {self.k}, λ {self.lambda_:g}, {describe_layers(self.layer_weights)}"


def describe_layers(weights: tuple[float, ...]) -> str:
    """``all layers``, ``layers 2-7``, or the weights themselves."""
    if all(weight == 1 for weight in weights):
        return "all layers"
    steered = [layer for layer, weight in enumerate(weights) if weight]
    contiguous = steered and steered[-1] - steered[0] + 1 == len(steered)
    if contiguous and all(weights[layer] == 1 for layer in steered):
        return f"layer {steered[0]}" if len(steered) == 1 else f"layers {steered[0]}-{steered[-1]}"
    return "layers × " + " ".join(f"{weight:.2g}" for weight in weights)
