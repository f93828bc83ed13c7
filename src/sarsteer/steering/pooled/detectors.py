"""The gate's detectors and distance from sums, as ``gate.detectors`` and ``gate.distance`` fit them to clips."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sarsteer.steering.gate.distance import MahalanobisDistance
from sarsteer.steering.pooled.setting import Setting
from sarsteer.steering.pooled.sketch import centered, reconstruct
from sarsteer.steering.pooled.sums import Sums

DIFFERENCE, LDA = "difference of means", "shrunk LDA"
_MAX_RANK = 64


@dataclass(frozen=True, eq=False)
class Covariance:
    """Of n clips around the mean of all of them: ``S = Σ (x − x̄)(x − x̄)ᵀ`` as U, λ, and one value for the rest.

    Attributes:
        basis: ``[q, D]``, orthonormal rows.
        squares: ``[q]``, eigenvalues of S.
        rest: the eigenvalue of every other direction: what is left of the trace.

    """

    basis: torch.Tensor = field(repr=False)
    squares: torch.Tensor = field(repr=False)
    rest: float

    @property
    def trace(self) -> float:
        """Of S."""
        return float(self.squares.sum()) + self.rest * (self.basis.shape[1] - len(self.squares))

    @property
    def frobenius(self) -> float:
        """``‖S‖²``."""
        return float(self.squares.square().sum()) + self.rest**2 * (self.basis.shape[1] - len(self.squares))

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """``S x``."""
        along = self.basis @ x
        return (self.squares * along) @ self.basis + self.rest * (x - along @ self.basis)

    def solve(self, scale: float, ridge: float, x: torch.Tensor) -> torch.Tensor:
        """``(scale S + ridge I)⁻¹ x``."""
        along = self.basis @ x
        inside = (along / (scale * self.squares + ridge)) @ self.basis
        return inside + (x - along @ self.basis) / (scale * self.rest + ridge)


def covariance(
    sketch: torch.Tensor, total: torch.Tensor, square: float, count: float, omega: torch.Tensor, noise: float
) -> Covariance:
    """S of n clips, from their sketch, sum ``[D]`` and sum of squared norms."""
    trace = max(square - float(total.square().sum()) / count, 0.0)
    basis, squares = reconstruct(centered(sketch, total, count, omega), omega, noise, trace)
    left = max(trace - float(squares.sum()), 0.0)
    return Covariance(basis, squares, left / max(1, len(total) - len(squares)))


def shrinkage(second: float, trace: float, fourth: float, count: float, width: int) -> tuple[float, float]:
    """ρ and μ of Ledoit and Wolf (2004), as ``gate.distance.ledoit_wolf``, from ``‖S‖²``, the trace and ``Σ‖x‖⁴``."""
    mu = trace / count / width
    mean_square = second / count**2
    noise = (fourth / count - mean_square) / count
    delta = mean_square - width * mu**2
    if delta <= 0:
        return 1.0, mu
    return min(max(noise, 0.0), delta) / delta, mu


def class_means(setting: Setting, sums: Sums) -> torch.Tensor:
    """``[C, G, D]``: the mean of each class of clips that fit; zero for a class without any."""
    count = sums["fit_count"].clamp(min=0)
    return torch.where(count[:, None, None] > 0, sums["fit_sum"] / count.clamp(min=1)[:, None, None], 0.0)


def label_sums(setting: Setting, sums: Sums) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts ``[2]`` and sums ``[2, G, D]`` of harmful and safe clips that fit."""
    parts = (setting.harmful, ~setting.harmful)
    return (
        torch.stack([sums["fit_count"][part].sum() for part in parts]),
        torch.stack([sums["fit_sum"][part].sum(0) for part in parts]),
    )


def detectors(
    setting: Setting, sums: Sums, spread: Sums, noise: float
) -> dict[tuple[str, int], tuple[torch.Tensor, float]]:
    """For each method and position among the gate's layers: w ``[D]`` and b, with the classes' means at −1 and 1."""
    counts, totals = label_sums(setting, sums)
    means = totals / counts[:, None, None]
    n = float(counts.sum())
    found = {}
    omega = setting.omega if setting.rank else None
    for at in range(len(setting.gate_layers)):
        d = means[0, at] - means[1, at]
        directions = {DIFFERENCE: d}
        if omega is not None:
            of_layer = _covariance(setting, sums, at, omega, noise)
            between = float(counts[0] * counts[1]) / n
            # S within classes is S − c d dᵀ
            second = of_layer.frobenius - 2 * between * float(d @ of_layer.times(d)) + between**2 * float(d @ d) ** 2
            trace = of_layer.trace - between * float(d @ d)
            rho, mu = shrinkage(second, trace, float(spread["fourth_label"][at]), n, setting.width)
            if mu > 0:
                directions[LDA] = of_layer.solve((1 - rho) / n, max(rho, 1e-6) * mu, d)
        for method, w in directions.items():
            half = float(w @ d) / 2
            if half > 0:
                w = w / half
                found[method, at] = w, -float(w @ (means[0, at] + means[1, at])) / 2
    return found


def distance(setting: Setting, sums: Sums, spread: Sums, at: int, noise: float) -> MahalanobisDistance | None:
    """The distance at one of the gate's layers, to means minus the center; None if the covariance is zero."""
    counts = sums["fit_count"]
    present = counts >= 1
    counts, means = counts[present], class_means(setting, sums)[present, at]
    n, omega = float(counts.sum()), setting.omega
    of_all = _covariance(setting, sums, at, omega, noise)
    deviations = (means - (counts @ means) / n) * counts.sqrt()[:, None]
    # within classes, S loses the deviations of the means: an eigenproblem in the span of both
    q, _ = torch.linalg.qr(torch.cat([of_all.basis, deviations]).T)
    inside = (of_all.basis @ q).T
    small = inside @ (of_all.squares[:, None] * inside.T) - (deviations @ q).T @ (deviations @ q)
    values, rotation = torch.linalg.eigh((small + small.T) / 2)
    values, basis = values.flip(0), (q @ rotation).T.flip(0)
    keep = int((values > 1e-12 * values[0].clamp(min=0)).sum())
    values, basis = values[:keep], basis[:keep]
    trace = max(of_all.trace - float(deviations.square().sum()), float(values.sum()))
    rho, mu = shrinkage(float(values.square().sum()), trace, float(spread["fourth_class"][at]), n, setting.width)
    if mu <= 0:
        return None
    kept = min(keep, _MAX_RANK)
    variances = values[:kept] / n
    residual = (1 - rho) * max(0.0, (trace / n - float(variances.sum())) / max(1, setting.width - kept)) + rho * mu
    return MahalanobisDistance(
        means.float(),
        basis[:kept].float(),
        (1 / ((1 - rho) * variances + rho * mu)).float(),
        1 / max(residual, 1e-12 * mu),
    )


def _covariance(setting: Setting, sums: Sums, at: int, omega: torch.Tensor, noise: float) -> Covariance:
    n = float(sums["fit_count"].sum())
    total = sums["fit_sum"][:, at].sum(0)
    return covariance(sums["fit_sketch"][at], total, float(sums["fit_square"][at]), n, omega, noise)
