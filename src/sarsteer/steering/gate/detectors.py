"""Linear detectors of harmful clips, fitted to ``Samples``: a direction as one coefficient per clip."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sarsteer.steering.gate.chance import LOGISTIC_C
from sarsteer.steering.gate.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]
    Method = Callable[[Samples, Labels], Floats]

_NEWTON_STEPS = 50
_CONVERGED = 1e-3  # largest change of a log-odds in the last step; the error that remains is about its square
_SMALLEST_STEP = 1e-6


def difference_of_means(samples: Samples, y: Labels) -> Floats:
    """The mean harmful activation minus the mean safe one."""
    return np.where(y == 1, 1 / (y == 1).sum(), -1 / (y == 0).sum())


def shrunk_lda(samples: Samples, y: Labels) -> Floats:
    """Linear discriminant analysis with Ledoit and Wolf's shrinkage of the classes' common covariance.

    The covariance of all clips is solved with: it adds a multiple of ``d dᵀ``, which changes only the length of
    ``Σ⁻¹ d`` (Sherman and Morrison).
    """
    d = difference_of_means(samples, y)
    rho, mean_variance = samples.within(y).shrinkage()
    if mean_variance <= 0:
        return d
    return samples.solve((1 - rho) / len(y), max(rho, 1e-6) * mean_variance, d)


def logistic_regression(samples: Samples, y: Labels) -> Floats:
    """L2-regularized with C = ``LOGISTIC_C`` and a free intercept, on activations scaled to unit total variance.

    Newton's method on the log-odds, as in Laplace's approximation of a Gaussian process (Rasmussen and Williams, 2006,
    algorithm 3.1), whose matrix ``I + W½ K W½`` is well conditioned however confident the fit is.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.special import expit

    variance = float(np.trace(samples.gram)) / len(y)
    kernel = samples.gram / (variance or 1.0)
    a, odds = np.zeros(len(y)), np.zeros(len(y))
    loss = math.inf
    for _ in range(_NEWTON_STEPS):
        p = expit(odds)
        curvature = LOGISTIC_C * p * (1 - p)
        root = np.sqrt(curvature)
        matrix = root[:, None] * kernel * root
        matrix[np.diag_indices_from(matrix)] += 1
        factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        # the next step has (I + W K) a + b W 1 = W odds + C (y − p) and 1ᵀ a = 0: solved for both right-hand sides
        right = np.stack([curvature * odds + LOGISTIC_C * (y - p), curvature], axis=1)
        right -= root[:, None] * cho_solve(factor, root[:, None] * (kernel @ right), check_finite=False)
        intercept = right[:, 0].sum() / right[:, 1].sum()
        step_a = right[:, 0] - intercept * right[:, 1] - a
        step_odds = kernel @ (a + step_a) + intercept - odds
        size = 1.0
        while True:
            next_a, next_odds = a + size * step_a, odds + size * step_odds
            next_loss = LOGISTIC_C * float((np.logaddexp(0, next_odds) - y * next_odds).sum()) + float(
                next_a @ kernel @ next_a / 2
            )
            if next_loss <= loss or size < _SMALLEST_STEP:
                break
            size /= 2
        a, odds, loss = next_a, next_odds, next_loss
        if size * np.abs(step_odds).max() <= _CONVERGED:
            break
    return a


METHODS: dict[str, Method] = {
    "difference of means": difference_of_means,
    "shrunk LDA": shrunk_lda,
    "logistic regression": logistic_regression,
}
"""Detectors, the simplest first. Each returns coefficients ``[m]`` from samples and labels ``[m]`` (1 for harmful): the
direction is the sum of the centered activations with these coefficients."""


def scaled(method: Method, samples: Samples, y: Labels) -> tuple[Floats, float]:
    """Coefficients and bias that put the means of safe and harmful clips at −1 and 1, so that folds are comparable.

    A score is the product with the direction of an activation minus the mean of ``samples``, plus the bias.
    """
    coefficients = method(samples, y)
    scores = samples.gram @ coefficients
    harmful, safe = float(scores[y == 1].mean()), float(scores[y == 0].mean())
    half = (harmful - safe) / 2
    if not np.isfinite(half) or half <= 0:
        return np.zeros_like(coefficients), 0.0  # no separation: every score is 0, and the AUROC one half
    return coefficients / half, -(harmful + safe) / 2 / half
