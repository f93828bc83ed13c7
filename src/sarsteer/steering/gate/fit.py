"""Fit the gate on calibration's activations: choose a layer, a linear detector and a threshold.

Each layer and method is measured by cross-validated AUROC; the two clips of a pair are always in the same fold. Among
those within one standard error of the best, the simplest method and then the earliest layer is chosen. The threshold
comes from the scores of safe clips by detectors that were not fitted on them.

The Gram matrix of the clips at one layer serves all folds, detectors and the chance test (``samples``). Layers are
fitted one after another, so the memory needed beside the activations does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sarsteer.errors import CalibrationError, SteeringError
from sarsteer.steering.gate.chance import MAX_P, ChanceTest
from sarsteer.steering.gate.detectors import METHODS, scaled
from sarsteer.steering.gate.distance import fit_distance
from sarsteer.steering.gate.gate import Gate, threshold_for
from sarsteer.steering.gate.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

Progress = Callable[[int, int], None]
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
    progress: Progress | None = None,
) -> Gate:
    """Fit a gate to activations at the last prompt token; row i of both tensors is pair i.

    Args:
        harmful: ``[n, L, D]``.
        safe: ``[n, L, D]``, the twins.
        target_fpr: the share of held-out safe clips that may open the gate.
        methods: names from ``METHODS``; all by default.
        layers: the layers to choose from; all but the last by default, which has no layer above it to steer.
        progress: called with the number of layers done and of all layers.

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
    if not all(torch.isfinite(rows[:, layer]).all() for rows in (harmful, safe) for layer in range(depth)):
        raise CalibrationError("the activations contain NaN or infinite values; load the model in bfloat16 or float32")
    candidates: list[CrossValidation] = []
    splits = folds(n)
    chance = ChanceTest(n, splits)
    tried = range(depth - 1) if layers is None else layers
    for done, layer in enumerate(tried):
        if progress is not None:
            progress(done, len(tried))
        samples = Samples.of(torch.cat([harmful[:, layer], safe[:, layer]]))
        parts = [(samples.part(fit), samples.beside(held_out, fit)) for fit, held_out in splits]
        chance.add(parts)
        candidates += [cross_validate(name, layer, parts, n) for name in methods or METHODS]
    if progress is not None:
        progress(len(tried), len(tried))
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


def cross_validate(method: str, layer: int, parts: Sequence[tuple[Samples, Floats]], n: int) -> CrossValidation:
    """Measure ``method`` on n pairs: for each of ``folds(n)``, the rows to fit on and the others beside them."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], n)
    scores, aurocs = np.empty(2 * n), []
    for (fit, held_out), (samples, across) in zip(folds(n), parts, strict=True):
        coefficients, bias = scaled(METHODS[method], samples, labels[fit])
        scores[held_out] = across @ coefficients + bias
        aurocs.append(float(roc_auc_score(labels[held_out], scores[held_out])))
    return CrossValidation(method, layer, tuple(aurocs), scores)


def folds(n: int) -> list[tuple[Labels, Labels]]:
    """Rows to fit on and rows to hold out, of n harmful clips and then their n twins; pairs stay together."""
    from sklearn.model_selection import GroupKFold

    pair = np.tile(np.arange(n), 2)
    return list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(pair, groups=pair))


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
    coefficients, bias = scaled(METHODS[chosen.method], Samples.of(rows), labels)
    weight = torch.from_numpy(coefficients) @ (rows.double() - center)
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
