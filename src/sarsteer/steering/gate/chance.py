"""Whether the best layer separates calibration's clips better than chance.

The best of many layers looks good on noise. If harmful and safe clips did not differ, swapping the labels of any pair
would change nothing; so the labels of random pairs are swapped, and the best layer is searched again for each draw.
Pairs of one request, as in two voices, are swapped together: their activations are not independent. The
share of draws whose best layer is as good as with the true labels is the p-value of a permutation test of the maximum.

Each layer is tested with three detectors, whichever of them the gate is fitted with: the difference of means d; linear
discriminant analysis, whose direction is ``Σ⁻¹ d``, where the covariance within classes and that of all clips are
equivalent (they differ by a multiple of ``d dᵀ``, which only changes the length); and ridge regression in place of
logistic regression, with the small ridge that its penalty amounts to, because fitting it for every draw would take too
long. The covariance of all clips does not depend on the labels, so all draws share one Cholesky factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sarsteer.steering.gate.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

DRAWS = 199
MAX_P = 0.05
LOGISTIC_C = 100.0
"""C of the gate's logistic regression, on activations of unit total variance."""


class ChanceTest:
    """Tests one layer after another, fold by fold, and keeps the best AUROC of each draw.

    Args:
        requests: the number of each pair's request, ``[n]``; rows are n harmful clips and then their n twins.
        folds: rows to fit on and rows to hold out; pairs stay together.
        seed: seed of the draws.

    """

    def __init__(self, requests: Sequence[int], folds: Sequence[tuple[Labels, Labels]], seed: int = 0) -> None:
        numbers, request = np.unique(np.asarray(requests), return_inverse=True)
        drawn = np.random.default_rng(seed).choice([-1.0, 1.0], (len(numbers), DRAWS))[request]
        signs = np.concatenate([np.ones((len(drawn), 1)), drawn], axis=1)  # the first column has the true labels
        self._signs: Floats = np.concatenate([signs, -signs])
        self._folds = folds
        self._best: Floats = np.zeros(1 + DRAWS)

    def add(self, folds: Sequence[tuple[Samples, Floats]]) -> None:
        """Test one layer: for each fold, its fitting rows, and the products of its held-out rows with them."""
        aurocs = np.zeros((3, self._signs.shape[1]))  # per detector, summed over the folds
        for (fit, held_out), (samples, across) in zip(self._folds, folds, strict=True):
            signs = self._signs[fit]  # coefficients of d, times half the number of clips
            for index, coefficients in enumerate((signs, *_solved(samples, signs))):
                aurocs[index] += self._aurocs(across @ coefficients, self._signs[held_out] > 0)
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


def _solved(samples: Samples, signs: Floats) -> list[Floats]:
    """Coefficients of ``Σ⁻¹ d``, with the covariance after Ledoit-Wolf shrinkage and with a small ridge."""
    rho, mean_variance = samples.shrinkage()
    if mean_variance <= 0:  # all clips are equal
        return [signs]
    m = len(samples.gram)
    # the curvature of the logistic loss is at most 1/4
    ridge = 4 / (LOGISTIC_C * m) * mean_variance * samples.width
    return [
        samples.solve((1 - rho) / m, max(rho, 1e-6) * mean_variance, signs),
        samples.solve(1 / m, ridge, signs),
    ]
