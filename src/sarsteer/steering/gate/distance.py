"""How far an activation lies from those of calibration: the Mahalanobis distance to the nearer class.

Where hidden width D far exceeds the number of clips, the classes' common covariance is shrunk towards a sphere
(Ledoit and Wolf, 2004): ``Σ = (1 − ρ) S + ρ μ I``. Its inverse is kept as few principal directions and one precision
for all the rest, so that a distance costs a few D-vector products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from sarsteer.errors import ArtifactError


@dataclass(frozen=True, eq=False)
class MahalanobisDistance:
    """The distance ``√(min over classes of (h − m)ᵀ Σ⁻¹ (h − m) / D)``: about 1 for a request like the calibration's.

    Attributes:
        means: ``[C, D]``, of the classes.
        basis: ``[R, D]`` orthonormal rows, the largest principal directions of S.
        precision: ``[R]``, 1 / variance along each.
        residual_precision: 1 / variance along every direction outside ``basis``.

    """

    means: torch.Tensor = field(repr=False)
    basis: torch.Tensor = field(repr=False)
    precision: torch.Tensor = field(repr=False)
    residual_precision: float

    def __post_init__(self) -> None:
        if self.means.ndim != 2 or not len(self.means) or self.basis.ndim != 2:
            raise ArtifactError("the gate's distance has the wrong number of dimensions; calibrate anew")
        width, rank = self.means.shape[1], self.basis.shape[0]
        if self.basis.shape[1] != width or tuple(self.precision.shape) != (rank,):
            raise ArtifactError("the parts of the gate's distance do not fit each other; calibrate anew")
        if not all(torch.isfinite(t).all() for t in (self.means, self.basis, self.precision)):
            raise ArtifactError("the gate's distance holds NaN or infinite values; calibrate anew")
        if not (math.isfinite(self.residual_precision) and self.residual_precision > 0):
            raise ArtifactError("the gate's distance has no positive precision; calibrate anew")

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """``[...]`` of activations ``[..., D]``, in float32."""
        scale = torch.tensor(self.residual_precision, dtype=torch.float32, device=h.device)
        means, basis, precision = (t.to(h.device) for t in (self.means, self.basis, self.precision))
        rows = h.float().reshape(-1, h.shape[-1])
        return mahalanobis(rows, means, basis, precision, scale).view(h.shape[:-1])


def mahalanobis(
    h: torch.Tensor,
    means: torch.Tensor,
    basis: torch.Tensor,
    precision: torch.Tensor,
    residual_precision: torch.Tensor,
    *,
    one_by_one: bool = False,
) -> torch.Tensor:
    """``MahalanobisDistance`` on bare tensors, as the hooks compute it: ``[B]`` of ``h`` ``[B, D]`` in float32.

    All classes at once is the fewest operations; ``one_by_one`` holds fewer copies of ``h``, for many rows.
    """
    squares = []
    for some in torch.split(means, 1 if one_by_one else len(means)):
        z = (h - some[:, None]).flatten(0, 1)
        along = z @ basis.T
        # the remainder itself, not ‖z‖² − ‖along‖²: a few coordinates of large models dwarf all others and would cancel
        rest = torch.addmm(z, along, basis, alpha=-1)
        square = along.square() @ precision + torch.linalg.vecdot(rest, rest) * residual_precision
        squares.append(square.view(len(some), -1))
    return (torch.cat(squares).amin(0) / h.shape[-1]).sqrt()


def fit_distance(activations: torch.Tensor, classes: torch.Tensor, max_rank: int = 64) -> MahalanobisDistance:
    """Fit to ``activations`` ``[n, D]`` of ``classes`` ``[n]`` (integers); computed in float64 through n x n products.

    Args:
        activations: of calibration, at one layer.
        classes: the class of each row.
        max_rank: principal directions that are kept; variance beyond them is spread over the rest.

    """
    x = activations.double()
    kinds = torch.tensor(sorted(set(classes.tolist())))
    means = torch.stack([x[classes == kind].mean(0) for kind in kinds])
    centred = x - means[torch.searchsorted(kinds, classes)]
    n, width = centred.shape
    gram = centred @ centred.T
    rho, mu = ledoit_wolf(gram, width)
    if mu <= 0:
        raise ArtifactError("all activations of a class are equal; give other pairs")
    squares, small = torch.linalg.eigh(gram)
    kept = (squares.flip(0) > 1e-12 * squares[-1]).nonzero().flatten()[:max_rank]
    variances = squares.flip(0)[kept] / n
    basis = torch.nn.functional.normalize(small.flip(1)[:, kept].T @ centred, dim=-1)
    rank = len(kept)
    left = (float(gram.trace()) / n - float(variances.sum())) / max(1, width - rank)
    residual = (1 - rho) * max(0.0, left) + rho * mu
    return MahalanobisDistance(
        means.float(), basis.float(), (1 / ((1 - rho) * variances + rho * mu)).float(), 1 / max(residual, 1e-12 * mu)
    )


def ledoit_wolf(gram: torch.Tensor, width: int) -> tuple[float, float]:
    """Shrinkage ρ and mean variance μ of Ledoit and Wolf (2004), from centred rows' products ``X Xᵀ`` ``[n, n]``.

    The same as ``sklearn.covariance.ledoit_wolf_shrinkage(X, assume_centered=True)`` with no D x D matrix.
    """
    n = len(gram)
    mu = float(gram.trace()) / n / width
    second = float(gram.square().sum()) / n**2
    noise = (float(gram.diagonal().square().sum()) / n - second) / n
    delta = second - width * mu**2
    if delta <= 0:
        return 1.0, mu
    return min(max(noise, 0.0), delta) / delta, mu
