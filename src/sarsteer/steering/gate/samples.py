"""Calibration's clips at one layer, as the products of their activations.

The hidden width D far exceeds the number of clips m, and every detector's direction is a combination of the clips'
activations. So a direction is stored as one coefficient per clip, and everything is computed from the Gram matrix
``X Xᵀ`` ``[m, m]``: exactly, in memory that does not depend on D, and with one product of D-vectors per layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from sarsteer.steering.gate.distance import ledoit_wolf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

_SPREAD = 1e-20  # share of the mean square; float32 activations that differ at all have a variance above 1e-15 of it


@dataclass(frozen=True, eq=False)
class Samples:
    """m clips at one layer.

    Attributes:
        gram: ``X Xᵀ`` ``[m, m]``, where the rows of X are activations minus their mean.
        width: D, the length of an activation.

    """

    gram: Floats = field(repr=False)
    width: int

    @classmethod
    def of(cls, rows: torch.Tensor) -> Samples:
        """The samples with activations ``rows`` ``[m, D]``. Equal activations have products of exactly zero."""
        x = np.asarray(rows.double().numpy())
        centered = x - x.mean(0)
        gram = centered @ centered.T
        if np.trace(gram) <= _SPREAD * np.square(x).sum():
            gram = np.zeros_like(gram)
        return cls(gram, x.shape[1])

    def part(self, chosen: Labels) -> Samples:
        """The chosen rows, centered on their own mean."""
        return Samples(_centered(self.gram[np.ix_(chosen, chosen)]), self.width)

    def beside(self, rows: Labels, chosen: Labels) -> Floats:
        """``[h, m]``: products of other ``rows`` with the chosen ones, all minus the mean of the chosen ones."""
        across, within = self.gram[np.ix_(rows, chosen)], self.gram[np.ix_(chosen, chosen)]
        return np.asarray(across - across.mean(1, keepdims=True) - within.mean(0) + within.mean())

    def within(self, labels: Labels) -> Samples:
        """The same rows, each minus the mean of its class."""
        gram = self.gram.copy()
        for label in np.unique(labels):
            rows = labels == label
            gram[rows] -= gram[rows].mean(0)
        for label in np.unique(labels):
            rows = labels == label
            gram[:, rows] -= gram[:, rows].mean(1, keepdims=True)
        return Samples(gram, self.width)

    def solve(self, scale: float, ridge: float, right: Floats) -> Floats:
        """Coefficients of ``(scale · XᵀX + ridge · I)⁻¹ Xᵀ right``: ``(scale · XXᵀ + ridge · I)⁻¹ right``."""
        from scipy.linalg import cho_factor, cho_solve

        matrix = scale * self.gram
        matrix[np.diag_indices_from(matrix)] += ridge
        factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        return np.asarray(cho_solve(factor, right, check_finite=False))

    def shrinkage(self) -> tuple[float, float]:
        """Shrinkage ρ and mean variance μ of Ledoit and Wolf (2004) for the covariance ``XᵀX / m``."""
        return ledoit_wolf(torch.from_numpy(self.gram), self.width)


def _centered(gram: Floats) -> Floats:
    """Subtract the mean row from all rows, in place, so that a large matrix is not copied again."""
    means = gram.mean(0)
    gram -= means
    gram -= (means - means.mean())[:, None]
    return gram
