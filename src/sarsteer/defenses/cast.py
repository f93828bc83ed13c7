"""CAST-style conditional steering (Lee et al., ICLR 2025, arXiv 2409.05907), a rival.

``h' = h + f(sim(h, tanh(proj_c h))) α v``, where ``proj_c h = (c cᵀ / cᵀc) h`` and sim is the cosine. f is 1 above a
threshold θ, or below it, else 0. The condition vector c of a layer is the first principal component of the harmful and
safe calibration activations around their common mean; layer, θ and the side are those with the best F1 on them. v is
the refusal vector without ablation.

Differences: activations are read at the last prompt token, not averaged over the prompt, and the layers after the
condition's are steered, at the positions that SARSteer steers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.conditional import ConditionalDefense
from sarsteer.steering.per_request import PerRequestSteering

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Condition:
    """When a request is steered.

    Attributes:
        layer: whose output is compared.
        vector: ``[D]``, c.
        threshold: θ.
        above: whether similarities above θ are steered, or those below it.
        f1: on the calibration activations.

    """

    layer: int
    vector: torch.Tensor
    threshold: float
    above: bool
    f1: float

    def met(self, h: torch.Tensor) -> torch.Tensor:
        """Whether each row of activations ``[B, D]`` meets it: ``[B]``, bool."""
        similar = similarity(h, self.vector.to(h.device, h.dtype))
        return similar > self.threshold if self.above else similar < self.threshold


def similarity(h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """``sim(h, tanh(proj_c h))`` for activations ``[B, D]`` and a condition vector ``[D]``: ``[B]``."""
    import torch

    projected = torch.tanh((h @ c / (c @ c))[:, None] * c)
    return torch.nn.functional.cosine_similarity(h, projected, dim=-1)


def find_condition(harmful: torch.Tensor, safe: torch.Tensor) -> Condition:
    """The condition with the best F1 over layers, thresholds and sides.

    Args:
        harmful: ``[n, L, D]`` at the last prompt token.
        safe: ``[m, L, D]``.

    """
    import torch

    best: Condition | None = None
    for layer in range(harmful.shape[1] - 1):  # a condition at the last layer leaves none to steer
        h, s = harmful[:, layer].double(), safe[:, layer].double()
        both = torch.cat([h, s])
        c = torch.linalg.svd(both - both.mean(0), full_matrices=False).Vh[0]
        scores = similarity(both, c)
        labels = torch.arange(len(both)) < len(h)
        for above in (True, False):
            theta, f1 = _best_threshold(scores if above else -scores, labels)
            if best is None or f1 > best.f1:
                best = Condition(layer, c.float(), theta if above else -theta, above, f1)
    assert best is not None, "a model has at least two layers"
    return best


def _best_threshold(scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """The threshold between two scores with the best F1 of "score above it is harmful", and that F1."""
    import torch

    order = scores.argsort(descending=True)
    ranked = scores[order]
    hits = labels[order].double().cumsum(0)
    called = torch.arange(1, len(ranked) + 1, dtype=torch.float64)
    f1 = 2 * hits / (called + labels.sum())
    distinct = torch.ones(len(ranked), dtype=torch.bool)
    distinct[:-1] = ranked[:-1] > ranked[1:]  # equal scores cannot be separated
    place = int(f1.masked_fill(~distinct, -1.0).argmax())
    following = float(ranked[place + 1]) if place + 1 < len(ranked) else float(ranked[place]) - 1e-6
    return (float(ranked[place]) + following) / 2, float(f1[place])


class CastSteering(PerRequestSteering):
    """The vectors of the layers after the condition's, in requests that meet it."""

    def __init__(self, vectors: torch.Tensor, alpha: float, condition: Condition) -> None:
        super().__init__(vectors, alpha)
        self.condition = condition

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        """c, and the numbers of the condition."""
        import torch

        one = self.condition
        return one.vector, torch.tensor([one.layer, one.threshold, one.above], dtype=torch.float64)

    def factors(self, layer: int, h: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """0 up to the condition's layer; then 1 for rows that met it. NaN meets it."""
        import torch

        if layer <= self.condition.layer:
            self._met = torch.where(torch.isfinite(h).all(-1), self.condition.met(h), True)
            return torch.zeros_like(before)
        return self._met.to(before.device, before.dtype)


@dataclass(frozen=True)
class Cast(ConditionalDefense):
    """CAST (arXiv 2409.05907): refusal vectors where a condition vector's similarity passes a threshold."""

    name: ClassVar[str] = "cast"

    def steering(self, context: DefenseContext, vectors: torch.Tensor, alpha: float) -> tuple[Any, dict[str, Any]]:
        """The condition is searched on the calibration activations."""
        condition = find_condition(*self.activations(context))
        about = {"layer": condition.layer, "threshold": condition.threshold, "above": condition.above}
        return CastSteering(vectors, alpha, condition), {"condition": {**about, "f1": condition.f1}}
