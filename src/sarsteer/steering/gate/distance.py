"""How far an activation is from those of calibration: the Mahalanobis distance to the nearer class.

The hidden width D far exceeds the number of clips, so the classes' common covariance is shrunk toward a sphere (Ledoit
and Wolf, 2004): ``Σ = (1 − ρ) S + ρ μ I``. Its inverse is stored as a few principal directions and one precision for
all other directions, so a distance costs a few D-vector products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from sarsteer.errors import ArtifactError


@dataclass(frozen=True, eq=False)
class MahalanobisDistance:
    """The distance ``√(min over classes of (h − m)ᵀ Σ⁻¹ (h − m) / D)``: about 1 for calibration's requests.

    Attributes:
        means: ``[C, D]``, one per class.
        basis: ``[R, D]`` orthonormal rows, the largest principal directions of S.
        precision: ``[R]``, 1 / variance along each of them.
        residual_precision: 1 / variance along every direction outside ``basis``.

    """

    means: torch.Tensor = field(repr=False)
    basis: torch.Tensor = field(repr=False)
    precision: torch.Tensor = field(repr=False)
    residual_precision: float

    def __post_init__(self) -> None:
        if self.means.ndim != 2 or not len(self.means) or self.basis.ndim != 2:
            raise ArtifactError("the gate's distance has the wrong number of dimensions; run calibrate again")
        width, rank = self.means.shape[1], self.basis.shape[0]
        if self.basis.shape[1] != width or tuple(self.precision.shape) != (rank,):
            raise ArtifactError("the gate's distance has parts of different shapes; run calibrate again")
        if not all(torch.isfinite(t).all() for t in (self.means, self.basis, self.precision)):
            raise ArtifactError("the gate's distance contains NaN or infinite values; run calibrate again")
        if not (math.isfinite(self.residual_precision) and self.residual_precision > 0):
            raise ArtifactError("the gate's residual precision must be above 0; run calibrate again")

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """``[...]`` in float32 for activations ``[..., D]``."""
        factors = {name: tensor.to(h.device) for name, tensor in self.factors.items()}
        return mahalanobis(h.float().reshape(-1, h.shape[-1]), **factors).view(h.shape[:-1])

    @cached_property
    def factors(self) -> dict[str, torch.Tensor]:
        """What ``mahalanobis`` needs beside the activations, in float32; the classes' places are computed in float64.

        ``center`` ``[D]``, ``basis`` ``[R, D]``, ``gains`` ``[R]``, ``places`` ``[C, R + D]`` and ``unit`` ``[]``.
        """
        means, basis = self.means.double(), self.basis.double()
        center = means.mean(0).float()
        gains = (self.precision.double() / self.residual_precision).sqrt()
        places = coordinates(means - center.double(), basis, gains)
        unit = torch.tensor(math.sqrt(self.residual_precision / means.shape[1]))
        parts = {"center": center, "basis": self.basis, "gains": gains, "places": places, "unit": unit}
        return {name: part.float() for name, part in parts.items()}


def mahalanobis(
    h: torch.Tensor,
    center: torch.Tensor,
    basis: torch.Tensor,
    gains: torch.Tensor,
    places: torch.Tensor,
    unit: torch.Tensor,
) -> torch.Tensor:
    """``MahalanobisDistance`` by its ``factors``, as the hooks compute it: ``[B]`` for ``h`` ``[B, D]`` in float32.

    In ``coordinates`` the distance is Euclidean, so that a row is transformed once for all classes.
    """
    found = coordinates(h - center, basis, gains)
    # differences, not products of norms, which would cancel
    return torch.cdist(found, places, compute_mode="donot_use_mm_for_euclid_dist").amin(-1) * unit


def coordinates(z: torch.Tensor, basis: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """``[B, R + D]``: ``z`` ``[B, D]`` along ``basis``, each direction by its gain, and what remains of it.

    The remainder itself is kept, not its length by Pythagoras: large models have a few huge coordinates, which would
    cancel.
    """
    along = torch.nn.functional.linear(z, basis)
    return torch.cat([along * gains, torch.addmm(z, along, basis, alpha=-1)], -1)


def fit_distance(activations: torch.Tensor, classes: torch.Tensor, max_rank: int = 64) -> MahalanobisDistance:
    """Fit to ``activations`` ``[n, D]`` of ``classes`` ``[n]`` (integers), in float64 through n x n products.

    Args:
        activations: calibration's activations at one layer.
        classes: the class of each row.
        max_rank: number of principal directions to store; the remaining variance is spread over all others.

    """
    x = activations.double()
    labels = torch.tensor(sorted(set(classes.tolist())))
    means = torch.stack([x[classes == label].mean(0) for label in labels])
    centered = x - means[torch.searchsorted(labels, classes)]
    n, width = centered.shape
    gram = centered @ centered.T
    rho, mu = ledoit_wolf(gram, width)
    if mu <= 0:
        raise ArtifactError("all activations of a class are equal; use other pairs")
    squares, small = torch.linalg.eigh(gram)
    kept = (squares.flip(0) > 1e-12 * squares[-1]).nonzero().flatten()[:max_rank]
    variances = squares.flip(0)[kept] / n
    basis = torch.nn.functional.normalize(small.flip(1)[:, kept].T @ centered, dim=-1)
    rank = len(kept)
    left = (float(gram.trace()) / n - float(variances.sum())) / max(1, width - rank)
    residual = (1 - rho) * max(0.0, left) + rho * mu
    return MahalanobisDistance(
        means.float(), basis.float(), (1 / ((1 - rho) * variances + rho * mu)).float(), 1 / max(residual, 1e-12 * mu)
    )


def limit_for(distances: Sequence[float], share: float) -> float:
    """The lowest limit that at most ``share`` of these distances exceed: a quantile, not a stated rate."""
    ordered = sorted(distances, reverse=True)
    return float(ordered[min(int(share * len(ordered) + 1e-9), len(ordered) - 1)])


def ledoit_wolf(gram: torch.Tensor, width: int) -> tuple[float, float]:
    """Shrinkage ρ and mean variance μ of Ledoit and Wolf (2004), from the Gram matrix ``X Xᵀ`` ``[n, n]``.

    X has centered rows. Equal to ``sklearn.covariance.ledoit_wolf_shrinkage(X, assume_centered=True)``, without a
    D x D matrix.
    """
    n = len(gram)
    mu = float(gram.trace()) / n / width
    second = float(gram.square().sum()) / n**2
    noise = (float(gram.diagonal().square().sum()) / n - second) / n
    delta = second - width * mu**2
    if delta <= 0:
        return 1.0, mu
    return min(max(noise, 0.0), delta) / delta, mu
