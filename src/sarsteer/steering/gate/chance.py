"""Whether calibration's clips are told apart better than chance, the choice of the best layer taken into account.

The best of many layers looks good on noise alone. If harmful and safe clips differed in nothing, swapping the labels of
any pair would change nothing either; so pairs are swapped at random, and the best layer is looked for each time. The
share of such draws whose best is as good as the true labels' is the p-value of a permutation test of the maximum.

Three detectors are looked at in each layer, as the gate's own are: the difference of means d; linear discriminant
analysis, whose direction is ``Σ⁻¹ d`` with the covariance within the classes or of all clips alike (the two differ by a
multiple of ``d dᵀ``, which changes its length alone); and ridge regression, the same with the small ridge that logistic
regression's penalty amounts to, since fitting that anew for every draw would take too long. The covariance of all clips
knows no labels and is the same for every draw: hundreds of them cost little.
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
"""Of the gate's logistic regression, on activations of unit total variance."""


class ChanceTest:
    """Takes one layer after the other, and keeps the best of each draw.

    Args:
        n: pairs; rows are n harmful clips and then their n twins.
        folds: rows to fit on and to hold out; pairs stay together.
        seed: of the draws.

    """

    def __init__(self, n: int, folds: Sequence[tuple[Labels, Labels]], seed: int = 0) -> None:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (n, DRAWS))
        signs = np.concatenate([np.ones((n, 1)), signs], axis=1)  # first the labels as they are
        self._signs: Floats = np.concatenate([signs, -signs])
        self._folds = folds
        self._best: Floats = np.zeros(1 + DRAWS)

    def add(self, rows: Floats, width: int) -> None:
        """Look at one layer: clips ``[2n, R]`` in orthonormal coordinates, of activations ``width`` wide."""
        aurocs = np.zeros((3, self._signs.shape[1]))  # of each detector, summed over the folds
        for fit, held in self._folds:
            centred = rows[fit] - rows[fit].mean(0)
            differences = centred.T @ self._signs[fit]  # [R, 1 + draws], d times half the clips
            for index, directions in enumerate((differences, *_solved(centred, width, differences))):
                aurocs[index] += self._aurocs(rows[held] @ directions, self._signs[held] > 0)
        self._best = np.maximum(self._best, aurocs.max(0) / len(self._folds))

    @staticmethod
    def _aurocs(scores: Floats, harmful: NDArray[np.bool_]) -> Floats:
        """``[1 + draws]`` from held-out scores and labels, ``[h, 1 + draws]``; half of each draw's are harmful."""
        from scipy.stats import rankdata

        half = len(scores) // 2
        ranks = (rankdata(scores, axis=0) * harmful).sum(0)
        return np.asarray((ranks - half * (half + 1) / 2) / half**2)

    @property
    def p_value(self) -> float:
        """Share of draws, the true labels among them, whose best layer is as good as the true labels'."""
        return float((self._best >= self._best[0] - 1e-12).mean())


def _solved(centred: Floats, width: int, differences: Floats) -> list[Floats]:
    """``Σ⁻¹ differences`` with the rows' covariance as Ledoit and Wolf shrink it, and with a small ridge."""
    rho, mean_variance = ledoit_wolf(torch.from_numpy(centred @ centred.T), width)
    if mean_variance <= 0:  # all clips are the same
        return [differences]
    covariance = centred.T @ centred / len(centred)
    identity = np.eye(len(covariance))
    # the curvature of the logistic loss is at most 1/4
    small = 4 / (LOGISTIC_C * len(centred)) * mean_variance * width
    return [
        np.linalg.solve(matrix, differences)
        for matrix in (
            (1 - rho) * covariance + max(rho, 1e-6) * mean_variance * identity,
            covariance + small * identity,
        )
    ]
