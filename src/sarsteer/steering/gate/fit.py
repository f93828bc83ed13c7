"""Fit the gate on calibration's activations: choose a layer, a linear detector and a threshold.

Each layer and method is measured by cross-validated AUROC; the two clips of a pair are always in the same fold. Among
those within one standard error of the best, the simplest method and then the earliest layer is chosen. The threshold
comes from the scores of safe clips by detectors that were not fitted on them.

Everything is computed in the span of the calibration clips: n coordinates instead of D. That is exact, because each of
these detectors is in that span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sarsteer.errors import CalibrationError, SteeringError
from sarsteer.steering.gate.chance import LOGISTIC_C, MAX_P, ChanceTest
from sarsteer.steering.gate.distance import fit_distance, ledoit_wolf
from sarsteer.steering.gate.gate import Gate, threshold_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]
    Method = Callable[[Floats, Labels, int], Floats]

TARGET_FPR = 0.05
FOLDS = 5
MIN_PAIRS = 10
"""Two pairs per fold; with fewer a held-out rate is meaningless."""
MIN_AUROC = 0.6
"""A gate that separates the classes no better than this refuses at random."""
OOD_FPR = 0.01
"""Share of held-out calibration clips that may be beyond the distance limit."""


@dataclass(frozen=True)
class CrossValidation:
    """A method at one layer: the AUROC of each fold, and every clip's score by the detector not fitted on it."""

    method: str
    layer: int
    aurocs: tuple[float, ...]
    scores: Floats

    @property
    def auroc(self) -> float:
        """The mean over folds."""
        return float(np.mean(self.aurocs))

    @property
    def error(self) -> float:
        """The standard error of ``auroc``."""
        return float(np.std(self.aurocs, ddof=1) / len(self.aurocs) ** 0.5)


def fit_gate(
    harmful: torch.Tensor,
    safe: torch.Tensor,
    target_fpr: float = TARGET_FPR,
    *,
    methods: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> Gate:
    """Fit a gate to activations at the last prompt token; row i of both tensors is pair i.

    Args:
        harmful: ``[n, L, D]``.
        safe: ``[n, L, D]``, the twins.
        target_fpr: the share of held-out safe clips that may open the gate.
        methods: names from ``METHODS``; all by default.
        layers: the layers to choose from; all but the last by default, which has no layer above it to steer.

    Raises:
        CalibrationError: there are too few pairs, no layer separates the classes, no threshold meets the rate and
            opens for any harmful clip, or an activation is not finite.

    """
    n, depth, _ = harmful.shape
    check_target(target_fpr)
    if n < MIN_PAIRS:
        raise CalibrationError(f"{n} pairs are too few to hold some out; give at least {MIN_PAIRS}")
    if depth < 2:
        raise CalibrationError("a model with one layer has no layer above a gate to steer; calibrate without a gate")
    if not (torch.isfinite(harmful).all() and torch.isfinite(safe).all()):
        raise CalibrationError("the activations contain NaN or infinite values; load the model in bfloat16 or float32")
    candidates, chance, width = [], ChanceTest(n, folds(n)), harmful.shape[-1]
    for layer in range(depth - 1) if layers is None else layers:
        reduced = in_span(torch.cat([harmful[:, layer], safe[:, layer]]))
        chance.add(reduced, width)
        candidates += [cross_validate(name, layer, reduced, n, width) for name in methods or METHODS]
    chosen, best = choose(candidates)
    if best.auroc - best.error < MIN_AUROC:
        raise CalibrationError(
            f"no layer separates harmful from safe clips (best cross-validated AUROC {best.auroc:.2f} ± "
            f"{best.error:.2f}, required {MIN_AUROC}): check the labels, or give more pairs"
        )
    if chance.p_value > MAX_P:
        raise CalibrationError(
            f"no layer separates harmful from safe clips better than chance (best cross-validated AUROC "
            f"{best.auroc:.2f}; as good in {chance.p_value:.0%} of draws with swapped labels): check the labels, or "
            "give more pairs"
        )
    gate = _finish(harmful[:, chosen.layer], safe[:, chosen.layer], chosen, candidates, chance.p_value)
    try:
        return gate.with_target_fpr(target_fpr)
    except SteeringError as error:
        raise CalibrationError(f"{error}, allow a higher false-positive rate, or give more pairs") from None


def check_target(target_fpr: float) -> None:
    """Raise ``CalibrationError`` unless ``target_fpr`` is a rate between 0 and 1."""
    if isinstance(target_fpr, bool) or not 0 < target_fpr < 1:
        raise CalibrationError(f"the target false-positive rate must be between 0 and 1, not {target_fpr}")


def choose(candidates: Sequence[CrossValidation]) -> tuple[CrossValidation, CrossValidation]:
    """The simplest method, then the earliest layer, within one standard error of the best; and the best itself."""
    best = max(candidates, key=lambda candidate: candidate.auroc)
    order = list(METHODS)
    as_good = [candidate for candidate in candidates if candidate.auroc >= best.auroc - best.error]
    return min(as_good, key=lambda candidate: (order.index(candidate.method), candidate.layer)), best


def cross_validate(method: str, layer: int, rows: Floats, n: int, width: int) -> CrossValidation:
    """Measure ``method`` on ``rows`` ``[2n, R]``: n harmful clips and then their n safe twins; D is ``width``."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], n)
    scores, aurocs = np.empty(2 * n), []
    for fit, held_out in folds(n):
        weight, bias = scaled(METHODS[method], rows[fit], labels[fit], width)
        scores[held_out] = rows[held_out] @ weight + bias
        aurocs.append(float(roc_auc_score(labels[held_out], scores[held_out])))
    return CrossValidation(method, layer, tuple(aurocs), scores)


def folds(n: int) -> list[tuple[Labels, Labels]]:
    """Rows to fit on and rows to hold out, of n harmful clips and then their n twins; pairs stay together."""
    from sklearn.model_selection import GroupKFold

    pair = np.tile(np.arange(n), 2)
    return list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(pair, groups=pair))


# ---- detectors -------------------------------------------------------------------------------------------------------


def difference_of_means(x: Floats, y: Labels, width: int) -> Floats:
    """The mean harmful activation minus the mean safe one."""
    return np.asarray(x[y == 1].mean(0) - x[y == 0].mean(0))


def shrunk_lda(x: Floats, y: Labels, width: int) -> Floats:
    """Linear discriminant analysis with Ledoit and Wolf's shrinkage of the classes' common covariance."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    # scikit-learn's "auto" standardizes each coordinate first, which is meaningless in rotated coordinates, and it does
    # not know about the D − R directions without variance. The share below gives the same ratio of ridge to covariance
    # in R coordinates as the estimate has in D.
    centered = torch.from_numpy(np.concatenate([x[y == c] - x[y == c].mean(0) for c in (0, 1)]))
    rho, mean_variance = ledoit_wolf(centered @ centered.T, width)
    ridge = rho * mean_variance
    variance = (1 - rho) * mean_variance * width / x.shape[1]
    share = ridge / (ridge + variance) if ridge + variance > 0 else 1.0
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=max(share, 1e-6), priors=[0.5, 0.5]).fit(x, y)
    return np.asarray(lda.coef_[0])


def logistic_regression(x: Floats, y: Labels, width: int) -> Floats:
    """L2-regularized, on activations scaled to unit total variance."""
    from sklearn.linear_model import LogisticRegression

    centered = x - x.mean(0)
    unit = np.sqrt(np.square(centered).sum(1).mean()) or 1.0
    return np.asarray(LogisticRegression(C=LOGISTIC_C, max_iter=2000).fit(centered / unit, y).coef_[0])


METHODS: dict[str, Method] = {
    "difference of means": difference_of_means,
    "shrunk LDA": shrunk_lda,
    "logistic regression": logistic_regression,
}
"""Detectors, the simplest first. Each returns a direction ``[R]`` from rows ``[m, R]``, labels ``[m]`` (1 for harmful)
and the width D."""


def scaled(method: Method, x: Floats, y: Labels, width: int) -> tuple[Floats, float]:
    """Weight and bias that put the means of safe and harmful rows at −1 and 1, so that folds are comparable."""
    if not x.shape[1]:  # all clips are equal
        return np.zeros(0), 0.0
    weight = method(x, y, width)
    harmful, safe = float(x[y == 1].mean(0) @ weight), float(x[y == 0].mean(0) @ weight)
    half = (harmful - safe) / 2
    if not np.isfinite(half) or half <= 0:
        return np.zeros_like(weight), 0.0  # no separation: every score is 0, and the AUROC one half
    return weight / half, -(harmful + safe) / 2 / half


def in_span(rows: torch.Tensor) -> Floats:
    """Rows ``[m, D]`` in orthonormal coordinates of their span: ``[m, R]``, with the same products and distances."""
    x = rows.double() - rows.double().mean(0)
    squares, vectors = torch.linalg.eigh(x @ x.T)
    kept = squares > 1e-12 * squares[-1].clamp(min=1e-300)
    return np.asarray((vectors[:, kept] * squares[kept].sqrt()).numpy())


# ---- the gate --------------------------------------------------------------------------------------------------------


def _finish(
    harmful: torch.Tensor,
    safe: torch.Tensor,
    chosen: CrossValidation,
    candidates: list[CrossValidation],
    p_value: float,
) -> Gate:
    """The gate, with a threshold of 0 that is set later."""
    n = len(harmful)
    rows, labels = torch.cat([harmful, safe]), np.repeat([1, 0], n)
    center = rows.double().mean(0)
    x = rows.double() - center
    squares, vectors = torch.linalg.eigh(x @ x.T)
    kept = squares > 1e-12 * squares[-1]
    coordinates = vectors[:, kept] * squares[kept].sqrt()
    small, bias = scaled(METHODS[chosen.method], coordinates.numpy(), labels, harmful.shape[-1])
    basis = (vectors[:, kept] / squares[kept].sqrt()).T @ x  # [R, D], orthonormal rows
    weight = torch.from_numpy(small) @ basis
    held_harmful, held_safe = chosen.scores[:n].tolist(), chosen.scores[n:].tolist()
    limit = _limit(rows, torch.from_numpy(labels))
    return Gate(
        layer=chosen.layer,
        weight=weight.float(),
        bias=bias - float(weight @ center),
        threshold=0.0,
        temperature=_temperature(chosen.scores, labels),
        distance=fit_distance(rows, torch.from_numpy(labels)),
        limit=limit,
        metadata={
            "method": chosen.method,
            "pairs": n,
            "folds": FOLDS,
            "p_value": p_value,
            "auroc": chosen.auroc,
            "auroc_error": chosen.error,
            "candidates": [
                {"method": c.method, "layer": c.layer, "auroc": c.auroc, "error": c.error} for c in candidates
            ],
            "held_out": {"harmful": held_harmful, "safe": held_safe},
        },
    )


def _temperature(scores: Floats, labels: Labels) -> float:
    """The width of the logistic function that fits held-out scores best (Platt, 1999)."""
    from sklearn.linear_model import LogisticRegression

    slope = float(LogisticRegression(C=1e6).fit(scores[:, None], labels).coef_[0, 0])
    return 1 / max(slope, 1e-3)


def _limit(rows: torch.Tensor, labels: torch.Tensor) -> float:
    """The distance that all but ``OOD_FPR`` of the clips are within, by fits without them."""
    n = len(rows) // 2
    distances: list[float] = []
    for fit, held_out in folds(n):
        distances += fit_distance(rows[fit], labels[fit])(rows[held_out]).tolist()
    return threshold_for(distances, OOD_FPR)
