"""Whether the best layer separates calibration's clips better than chance.

The best of many layers looks good on noise. If harmful and safe clips did not differ, swapping the labels of any pair
would change nothing; so the labels of random pairs are swapped, and the best layer is searched again for each draw. The
share of draws whose best layer is as good as with the true labels is the p-value of a permutation test of the maximum.

Each layer is tested with three detectors, as the gate is fitted with three: the difference of means d; linear
discriminant analysis, whose direction is ``Σ⁻¹ d``, where the covariance within classes and that of all clips are
equivalent (they differ by a multiple of ``d dᵀ``, which only changes the length); and ridge regression in place of
logistic regression, with the small ridge that its penalty amounts to, because fitting it for every draw would take too
long. The covariance of all clips does not depend on the labels, so hundreds of draws cost little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from sarsteer.steering.gate.distance import ledoit_wolf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

DRAWS = 199
MAX_P = 0.05
LOGISTIC_C = 100.0
"""C of the gate's logistic regression, on activations of unit total variance."""


class ChanceTest:
    """Tests one layer after another, and keeps the best AUROC of each draw.

    Args:
        n: number of pairs; rows are n harmful clips and then their n twins.
        folds: rows to fit on and rows to hold out; pairs stay together.
        seed: seed of the draws.

    """

    def __init__(self, n: int, folds: Sequence[tuple[Labels, Labels]], seed: int = 0) -> None:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (n, DRAWS))
        signs = np.concatenate([np.ones((n, 1)), signs], axis=1)  # the first column has the true labels
        self._signs: Floats = np.concatenate([signs, -signs])
        self._folds = folds
        self._best: Floats = np.zeros(1 + DRAWS)

    def add(self, rows: Floats, width: int) -> None:
        """Test one layer: clips ``[2n, R]`` in orthonormal coordinates, of activations of ``width`` D."""
        aurocs = np.zeros((3, self._signs.shape[1]))  # per detector, summed over the folds
        for fit, held_out in self._folds:
            centered = rows[fit] - rows[fit].mean(0)
            differences = centered.T @ self._signs[fit]  # [R, 1 + draws], d times half the number of clips
            for index, directions in enumerate((differences, *_solved(centered, width, differences))):
                aurocs[index] += self._aurocs(rows[held_out] @ directions, self._signs[held_out] > 0)
        self._best = np.maximum(self._best, aurocs.max(0) / len(self._folds))

    @staticmethod
    def _aurocs(scores: Floats, harmful: NDArray[np.bool_]) -> Floats:
        """``[1 + draws]`` from held-out scores and labels, ``[h, 1 + draws]``; half of the labels are harmful."""
        from scipy.stats import rankdata

        half = len(scores) // 2
        ranks = (rankdata(scores, axis=0) * harmful).sum(0)
        return np.asarray((ranks - half * (half + 1) / 2) / half**2)

    @property
    def p_value(self) -> float:
        """Share of draws, the true labels included, whose best layer is as good as with the true labels."""
        return float((self._best >= self._best[0] - 1e-12).mean())


def _solved(centered: Floats, width: int, differences: Floats) -> list[Floats]:
    """``Σ⁻¹ differences``, with the rows' covariance after Ledoit-Wolf shrinkage and with a small ridge."""
    rho, mean_variance = ledoit_wolf(torch.from_numpy(centered @ centered.T), width)
    if mean_variance <= 0:  # all clips are equal
        return [differences]
    covariance = centered.T @ centered / len(centered)
    identity = np.eye(len(covariance))
    # the curvature of the logistic loss is at most 1/4
    ridge = 4 / (LOGISTIC_C * len(centered)) * mean_variance * width
    return [
        np.linalg.solve(matrix, differences)
        for matrix in (
            (1 - rho) * covariance + max(rho, 1e-6) * mean_variance * identity,
            covariance + ridge * identity,
        )
    ]
