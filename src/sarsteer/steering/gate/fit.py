"""Fit the gate on calibration's activations: choose a detector and layers, and a threshold with a stated rate.

Detectors are measured in every layer of the lower part of the model by cross-validated AUROC; the two clips of a pair,
and all clips of one request, are always in the same fold. The simplest method within one standard error of the best is
chosen, on the layers where it separates best, as many as give the best mean of their standardized scores. The threshold
comes from the scores of safe clips by detectors that were neither fitted nor chosen on them (``nested``).

The Gram matrix of the clips at one layer serves all folds, detectors and the chance test (``samples``). Layers are
fitted one after another, so the memory needed beside the activations does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from sarsteer.errors import CalibrationError, SteeringError
from sarsteer.steering.gate.chance import MAX_P, ChanceTest
from sarsteer.steering.gate.clips import FOLDS, Clips
from sarsteer.steering.gate.detectors import METHODS, scaled
from sarsteer.steering.gate.distance import fit_distance, limit_for
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.nested import (
    MOST_LAYERS,
    Combination,
    CrossValidation,
    LayerScores,
    choose,
    combine,
    nested_scores,
)
from sarsteer.steering.gate.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

Progress = Callable[[int, int], None]
TARGET_FPR = 0.05
MIN_PAIRS = 10
"""Two pairs per fold; with fewer a held-out rate is meaningless."""
MIN_AUROC = 0.6
"""A gate that separates the classes no better than this refuses at random."""
OOD_FPR = 0.01
"""Share of held-out calibration clips that may be beyond the distance limit; less if the stated rate is low."""
DEPTH = 0.6
"""Share of the layers that a gate may read. The others are above it and can be steered in the same pass; they are
enough to refuse (docs/gate.md)."""
DETECTORS = ("difference of means", "shrunk LDA")
"""Methods that are compared. Logistic regression separates no better, and carries over worse to new kinds of requests
(docs/gate.md)."""


def fit_gate(
    harmful: torch.Tensor,
    safe: torch.Tensor,
    target_fpr: float = TARGET_FPR,
    *,
    benign: torch.Tensor | None = None,
    pair_groups: Sequence[str] | None = None,
    benign_groups: Sequence[str] | None = None,
    pair_requests: Sequence[Hashable] | None = None,
    benign_requests: Sequence[Hashable] | None = None,
    methods: Sequence[str] = DETECTORS,
    layers: Sequence[int] | None = None,
    most_layers: int = MOST_LAYERS,
    progress: Progress | None = None,
) -> Gate:
    """Fit a gate to activations at the last prompt token; row i of ``harmful`` and ``safe`` is pair i.

    Args:
        harmful: ``[n, L, D]``.
        safe: ``[n, L, D]``, the twins.
        target_fpr: the share of safe clips that may open the gate; see ``Gate.with_target_fpr``.
        benign: ``[b, L, D]``, safe clips without a twin, such as everyday requests.
        pair_groups: the group of each pair, such as ``"borderline"``; stored for rates by group.
        benign_groups: the group of each row of ``benign``.
        pair_requests: the request of each pair, equal for pairs that share one, as in two voices: they are held out
            together. ``request_numbers`` finds them. By default all are different.
        benign_requests: the request of each row of ``benign``, by the same names.
        methods: names from ``METHODS``.
        layers: the layers to choose from; the lower ``DEPTH`` of the model by default. The last layer has none above it
            to steer.
        most_layers: the most layers whose scores are averaged; 1 for the best one.
        progress: called with the number of layers done and of all layers.

    Raises:
        CalibrationError: there are too few pairs, no layer separates the classes, the safe clips are too few for the
            rate, no threshold meets it and opens for any harmful clip, or an activation is not finite.

    """
    check_target(target_fpr)
    clips = Clips.of(harmful, safe, benign, pair_groups, benign_groups, pair_requests, benign_requests)
    if clips.distinct_pairs < MIN_PAIRS:
        copies = "" if clips.distinct_pairs == clips.pairs else f" of {clips.distinct_pairs} different requests"
        raise CalibrationError(f"{clips.pairs} pairs{copies} are too few to hold some out; give at least {MIN_PAIRS}")
    if clips.depth < 2:
        raise CalibrationError("a model with one layer has no layer above a gate to steer; calibrate without a gate")
    if isinstance(most_layers, bool) or most_layers < 1:
        raise CalibrationError(f"a gate reads at least 1 layer, not {most_layers}")
    tried = readable_layers(clips.depth) if layers is None else list(layers)
    labels, folds = clips.labels, clips.folds
    scores: dict[tuple[str, int], LayerScores] = {}
    paired = np.arange(2 * clips.pairs)
    splits = [(paired[folds[paired] != fold], paired[folds[paired] == fold]) for fold in range(FOLDS)]
    chance = ChanceTest(clips.pair_requests, splits)
    for done, layer in enumerate(tried):
        if progress is not None:
            progress(done, len(tried))
        samples = Samples.of(clips.at(layer))
        chance.add([(samples.part(fit), samples.beside(held_out, fit)) for fit, held_out in splits])
        for method in methods:
            scores[method, layer] = LayerScores.of(method, samples, labels, folds)
    if progress is not None:
        progress(len(tried), len(tried))
    candidates = [
        CrossValidation.of(method, layer, found.held_out, labels, folds) for (method, layer), found in scores.items()
    ]
    _, best = choose(candidates)
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
    nested = nested_scores(scores, labels, folds, most_layers)
    held_out = CrossValidation.of("nested", -1, nested, labels, folds)
    if held_out.auroc < MIN_AUROC:
        raise CalibrationError(
            f"no layer separates harmful from safe clips (cross-validated AUROC {held_out.auroc:.2f} ± "
            f"{held_out.error:.2f} with layers chosen on other clips, required {MIN_AUROC}): give more pairs"
        )
    combination = combine(candidates, labels, folds, most_layers)
    gate = _finish(clips, combination, held_out, candidates, chance.p_value, target_fpr)
    try:
        return gate.with_target_fpr(target_fpr)
    except SteeringError as error:
        raise CalibrationError(f"{error}, allow a higher false-positive rate, or give more pairs") from None


def check_target(target_fpr: float) -> None:
    """Raise ``CalibrationError`` unless ``target_fpr`` is a rate between 0 and 1."""
    if isinstance(target_fpr, bool) or not 0 < target_fpr < 1:
        raise CalibrationError(f"the target false-positive rate must be between 0 and 1, not {target_fpr}")


def readable_layers(depth: int) -> list[int]:
    """The layers that a gate may read in a model with ``depth`` layers: the lower ``DEPTH`` of them."""
    return list(range(min(max(1, round(DEPTH * depth)), depth - 1)))


def _finish(
    clips: Clips,
    combination: Combination,
    held_out: CrossValidation,
    candidates: list[CrossValidation],
    p_value: float,
    target_fpr: float,
) -> Gate:
    """The gate, fitted on all clips, with a threshold of 0 that is set later."""
    labels, n = clips.labels, clips.pairs
    weights, bias = {}, combination.offset
    for layer, factor in zip(combination.layers, combination.factors, strict=True):
        rows = clips.at(layer).double()
        center = rows.mean(0)
        coefficients, own_bias = scaled(METHODS[combination.method], Samples.of(rows), labels)
        weight = torch.from_numpy(factor * coefficients) @ (rows - center)
        weights[layer] = weight.float()
        bias += factor * own_bias - float(weight @ center)
    *earlier, layer = combination.layers
    distances = _held_out_distances(clips, layer)
    allowed = min(OOD_FPR, target_fpr / 5)
    parts = {"harmful": slice(0, n), "safe": slice(n, None)}
    return Gate(
        layer=layer,
        weight=weights[layer],
        bias=bias,
        threshold=0.0,
        temperature=_temperature(held_out.scores, labels),
        distance=fit_distance(clips.at(layer), clips.classes),
        limit=limit_for(distances, allowed),
        metadata={
            "method": combination.method,
            "pairs": n,
            "benign": len(clips.benign),
            "folds": FOLDS,
            "p_value": p_value,
            "auroc": held_out.auroc,
            "auroc_error": held_out.error,
            "candidates": [
                {"method": c.method, "layer": c.layer, "auroc": c.auroc, "error": c.error} for c in candidates
            ],
            "held_out": {
                **{name: held_out.scores[part].tolist() for name, part in parts.items()},
                "distances": {name: distances[part] for name, part in parts.items()},
                "groups": {name: list(clips.groups[part]) for name, part in parts.items()},
                "requests": {name: list(clips.requests[part]) for name, part in parts.items()},
            },
        },
        earlier={other: weights[other] for other in earlier},
    )


def _temperature(scores: Floats, labels: Labels) -> float:
    """The width of the logistic function that fits held-out scores best (Platt, 1999)."""
    from sklearn.linear_model import LogisticRegression

    slope = float(LogisticRegression(C=1e6).fit(scores[:, None], labels).coef_[0, 0])
    return 1 / max(slope, 1e-3)


def _held_out_distances(clips: Clips, layer: int) -> list[float]:
    """The distance of each clip by a fit without its fold."""
    rows, classes, folds = clips.at(layer), clips.classes, torch.from_numpy(clips.folds)
    distances = torch.empty(len(rows))
    for fold in range(FOLDS):
        fit, held_out = folds != fold, folds == fold
        distances[held_out] = fit_distance(rows[fit], classes[fit])(rows[held_out])
    return [float(distance) for distance in distances]
