"""AlphaSteer-style null-space steering (Sheng et al., ICLR 2026, arXiv 2506.07022), a rival.

``h' = h + λ Δ h`` with ``Δ = Δ̃ P``. P projects onto the directions with the smallest eigenvalues of ``H_b H_bᵀ``
(activations of safe requests, not centered), so that Δ hardly moves safe requests. Δ̃ maps harmful activations H_m to
the refusal vector r by ridge regression: ``Δ̃ = R (P H_m)ᵀ (P H_m (P H_m)ᵀ + γ P Pᵀ)⁺``, where each column of R is r.

R has rank one, and so has Δ: ``Δ = r uᵀ`` with ``u = Y (YᵀY + γ I)⁻¹ 1`` and ``Y = P H_m`` (the push-through identity).
So Δ h is r times the number ``u·h``, which is near 1 on harmful and near 0 on safe requests.

Differences: r is the steering file's refusal vector. Δ h is computed at the last prompt token of each layer, and added
there and at every decoded token, the positions that SARSteer steers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.conditional import ConditionalDefense
from sarsteer.errors import EvaluationError
from sarsteer.registry import option
from sarsteer.steering.per_request import PerRequestSteering

if TYPE_CHECKING:
    import torch


def null_space_readout(harmful: torch.Tensor, safe: torch.Tensor, share: float, ridge: float) -> torch.Tensor:
    """The readouts u, ``[L, D]`` in float32: Δ is ``r uᵀ``.

    Args:
        harmful: ``[n, L, D]`` at the last prompt token.
        safe: ``[m, L, D]``.
        share: of the D directions that P keeps; more are kept if safe activations span fewer than the rest.
        ridge: γ.

    """
    import torch

    width = harmful.shape[-1]
    readouts = []
    for layer in range(harmful.shape[1]):
        h, s = harmful[:, layer].double(), safe[:, layer].double()
        _, values, directions = torch.linalg.svd(s, full_matrices=False)
        rank = int((values > values[0] * max(s.shape) * torch.finfo(torch.float64).eps).sum())
        removed = directions[: min(rank, width - round(share * width))]
        y = h - (h @ removed.T) @ removed
        kernel = y @ y.T + ridge * torch.eye(len(y), dtype=torch.float64)
        readouts.append(y.T @ torch.linalg.solve(kernel, torch.ones(len(y), dtype=torch.float64)))
    return torch.stack(readouts).float()


class AlphaSteering(PerRequestSteering):
    """``h += α r (u·h)``."""

    def __init__(self, vectors: torch.Tensor, alpha: float, readout: torch.Tensor) -> None:
        super().__init__(vectors, alpha)
        self.readout = readout

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        """The readouts."""
        return (self.readout,)

    def factors(self, layer: int, h: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """``u·h``."""
        return h @ self.readout[layer].to(h.device)


@dataclass(frozen=True)
class AlphaSteer(ConditionalDefense):
    """AlphaSteer (arXiv 2506.07022): refusal vectors times a readout that is blind to safe requests."""

    name: ClassVar[str] = "alphasteer"

    share: float = option(0.5, help="share of the directions that the null-space projection keeps")
    ridge: float = option(10.0, help="ridge coefficient")

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise EvaluationError(f"defense {self.name!r}: share must be above 0 and at most 1, not {self.share:g}")
        if self.ridge <= 0:
            raise EvaluationError(f"defense {self.name!r}: ridge must be above 0, not {self.ridge:g}")

    def steering(self, context: DefenseContext, vectors: torch.Tensor, alpha: float) -> tuple[Any, dict[str, Any]]:
        """The readout is fitted to the calibration activations."""
        readout = null_space_readout(*self.activations(context), share=self.share, ridge=self.ridge)
        return AlphaSteering(vectors, alpha, readout), {"share": self.share, "ridge": self.ridge}
