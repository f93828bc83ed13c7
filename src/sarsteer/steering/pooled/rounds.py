"""Calibration in rounds of sums: each round's ``Query`` follows from the sums of the rounds before it.

1. ``statistics``: counts, sums, differences and second moments. They give the refusal vectors, the safe subspace, and
   a detector for each layer that a gate may read.
2. ``spread``: fourth moments, which the covariance's shrinkage needs, and histograms of norms, for their median.
3. ``choose``: histograms of every detector's scores on clips that fitted none, which choose a detector and an order
   of layers.
4. ``combine``: the same for the mean score of the best layers, and histograms of distances.
5. ``threshold``: histograms of the gate's scores on clips that neither fitted nor chose it, which set the threshold;
   with a distance limit, and without it.

A site answers a query from its clips alone, and ``answer`` is a sum over clips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sarsteer.errors import CalibrationError
from sarsteer.steering.gate.distance import MahalanobisDistance
from sarsteer.steering.pooled.setting import CHOOSE, FIT, THRESHOLD, Batch, Rows, Setting
from sarsteer.steering.pooled.sketch import longest
from sarsteer.steering.pooled.sums import Layout, Part, Sums

ROUNDS = ("statistics", "spread", "choose", "combine", "threshold")
BINS, RANGE = 2048, 16.0
"""Scores from −RANGE to RANGE (classes' means are at −1 and 1) in BINS bins, with a bin below and one above. At the
smallest AUROC of a gate, RANGE is three standard deviations: clips beyond the distance limit are counted above it."""
DISTANCE_BINS, FARTHEST = 512, 8.0
NORM_BINS, DEVIATIONS = 128, 4.0
_TWO = math.sqrt(2)  # a pair has two clips


@dataclass(frozen=True, eq=False)
class Query:
    """What a round asks every site: the name of the round, and tensors that earlier rounds gave."""

    name: str
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)


def layout_of(setting: Setting, query: Query) -> Layout:
    """The parts of the sums that answer ``query``."""
    layers, width, gated, classes = setting.layers, setting.width, len(setting.gate_layers), len(setting.classes)
    radius = setting.radius.double()
    low = radius[setting.gate_layers]
    by_layer, by_gate = math.sqrt(layers), math.sqrt(max(gated, 1))
    if query.name == "statistics":
        norm = setting.center.double().norm(dim=1) + radius
        parts = {
            "pairs": Part.of(),
            "benign": Part.of(),
            "difference": Part.of(layers, width, unit=radius[:, None], length=by_layer),
            "harmful": Part.of(layers, width, unit=radius[:, None], length=by_layer),
            "harmful_norm": Part.of(layers, unit=norm, length=by_layer),
            "harmful_norm_square": Part.of(layers, unit=norm**2, length=by_layer),
            "safe": Part.of(layers, width, unit=radius[:, None], length=by_layer),
            "fit_count": Part.of(classes, length=_TWO),
            "fit_sum": Part.of(classes, gated, width, unit=low[:, None], length=_TWO * by_gate),
        }
        if setting.rank:
            omega = setting.omega
            column, spectral = float(omega.norm(dim=0).max()), longest(omega)
            stretch = spectral / column  # of ‖xᵀΩ‖, in units
            parts |= {
                "safe_square": Part.of(layers, unit=radius**2, length=by_layer),
                "safe_sketch": Part.of(
                    layers, width, setting.columns, unit=(radius**2 * column)[:, None, None], length=by_layer * stretch
                ),
                "fit_square": Part.of(gated, unit=2 * low**2, length=by_gate),
                "fit_sketch": Part.of(
                    gated, width, setting.columns, unit=(2 * low**2 * column)[:, None, None], length=by_gate * stretch
                ),
            }
        return parts
    if query.name == "spread":
        parts = {"norms": Part.of(layers, NORM_BINS + 2, length=by_layer)}
        if setting.rank:
            fourth = Part.of(gated, unit=2 * (2 * low) ** 4, length=by_gate)
            parts |= {"fourth_label": fourth, "fourth_class": fourth}
        return parts
    if query.name == "threshold":
        parts = {"scores": Part.of(classes, BINS + 2, length=_TWO)}
        # the same without the distance limit: if too many clips are beyond it, the gate does without
        return {**parts, "unlimited": parts["scores"]} if "limit" in query.tensors else parts
    count = len(query.tensors["bias"])
    parts = {"scores": Part.of(count, classes, BINS + 2, unit=1.0, length=_TWO * math.sqrt(count))}
    if query.name == "combine" and "precision" in query.tensors:
        length = _TWO * math.sqrt(count)
        parts["distances"] = Part.of(count, DISTANCE_BINS + 2, unit=2.0, length=length / 2)
    return parts


def answer(setting: Setting, query: Query, rows: Rows) -> Sums:
    """The sums of one site's clips, in memory that does not depend on their number.

    Raises:
        CalibrationError: the query is unknown, or an activation is not finite.

    """
    if query.name not in ROUNDS:
        raise CalibrationError(f"unknown round {query.name!r}; use the same sarsteer on every site")
    rows.check(setting)
    add = {
        "statistics": _add_statistics,
        "spread": _add_spread,
        "choose": _add_scores,
        "combine": _add_scores,
        "threshold": _add_threshold,
    }[query.name]
    sums = {name: torch.zeros(part.shape, dtype=torch.float64) for name, part in layout_of(setting, query).items()}
    omega = setting.omega if setting.rank and query.name == "statistics" else None
    for batch in rows.batches(setting):
        add(setting, query, batch, sums, omega)
    return Sums(sums)


def shortened(rows: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """``rows`` ``[B, L, D]``, none longer than ``radius`` ``[L]``."""
    norms = rows.norm(dim=-1)
    factor = torch.where(norms > radius, radius / norms.clamp(min=1e-300), torch.ones_like(norms))
    return rows * factor[..., None]


def _add_statistics(
    setting: Setting, _: Query, batch: Batch, sums: dict[str, torch.Tensor], omega: torch.Tensor | None
) -> None:
    radius, gate_layers = setting.radius.double(), setting.gate_layers
    x = shortened(batch.plain, radius)
    if batch.difference is not None:
        sums["pairs"] += len(x)
        sums["difference"] += shortened(batch.difference, radius).sum(0)
        sums["harmful"] += x.sum(0)
        norms = (x + setting.center).norm(dim=-1)
        sums["harmful_norm"] += norms.sum(0)
        sums["harmful_norm_square"] += norms.square().sum(0)
    elif batch.twins:
        sums["safe"] += x.sum(0)
        if omega is not None:
            sums["safe_square"] += x.square().sum((0, 2))
            sums["safe_sketch"] += torch.einsum("bld,blr->ldr", x, x @ omega)
    else:
        sums["benign"] += len(x)
    fit = batch.parts == FIT
    low, classes = x[fit][:, gate_layers], batch.classes[fit]
    sums["fit_count"].index_add_(0, classes, torch.ones(len(classes), dtype=torch.float64))
    sums["fit_sum"].index_add_(0, classes, low)
    if omega is not None:
        sums["fit_square"] += low.square().sum((0, 2))
        sums["fit_sketch"] += torch.einsum("bld,blr->ldr", low, low @ omega)


def _add_spread(
    setting: Setting, query: Query, batch: Batch, sums: dict[str, torch.Tensor], _: torch.Tensor | None
) -> None:
    x = shortened(batch.plain, setting.radius.double())
    if batch.difference is not None:
        norms = (x + setting.center).norm(dim=-1)
        z = (norms - query.tensors["norm_mean"]) / query.tensors["norm_deviation"]
        for layer in range(setting.layers):
            sums["norms"][layer] += histogram(z[:, layer], NORM_BINS, -DEVIATIONS, DEVIATIONS)
    if setting.rank:
        fit = batch.parts == FIT
        low, classes = x[fit][:, setting.gate_layers], batch.classes[fit]
        label = torch.where(setting.harmful[classes], 0, 1)
        for name, means in (
            ("label", query.tensors["label_means"][label]),
            ("class", query.tensors["class_means"][classes]),
        ):
            sums[f"fourth_{name}"] += (low - means).square().sum(-1).square().sum(0)


def _add_scores(
    setting: Setting, query: Query, batch: Batch, sums: dict[str, torch.Tensor], _: torch.Tensor | None
) -> None:
    """Scores of each detector: ``weights`` ``[M, G, D]`` summed over layers, or ``[M, D]`` of layer ``at`` ``[M]``."""
    chosen = batch.parts == CHOOSE
    low, classes = batch.plain[chosen][:, setting.gate_layers], batch.classes[chosen]
    scores = _scores(query, low)
    for which in range(scores.shape[1]):
        for index in sorted(set(classes.tolist())):
            sums["scores"][which, index] += histogram(scores[classes == index, which], BINS, -RANGE, RANGE)
    if "distances" in sums:
        for which in range(scores.shape[1]):
            distances = _distances(query, low, which)
            sums["distances"][which] += histogram(distances, DISTANCE_BINS, 0.0, FARTHEST)


def _add_threshold(
    setting: Setting, query: Query, batch: Batch, sums: dict[str, torch.Tensor], _: torch.Tensor | None
) -> None:
    chosen = batch.parts == THRESHOLD
    low, classes = batch.plain[chosen][:, setting.gate_layers], batch.classes[chosen]
    scores = {"scores": _scores(query, low)[:, 0]}
    if "limit" in query.tensors:
        scores["unlimited"] = scores["scores"]
        far = ~(_distances(query, low, 0) <= query.tensors["limit"])
        scores["scores"] = torch.where(far, torch.full_like(scores["scores"], math.inf), scores["scores"])
    for name, values in scores.items():
        for index in sorted(set(classes.tolist())):
            sums[name][index] += histogram(values[classes == index], BINS, -RANGE, RANGE)


def _scores(query: Query, low: torch.Tensor) -> torch.Tensor:
    weights, bias = query.tensors["weights"].double(), query.tensors["bias"].double()
    if weights.ndim == 3:
        return torch.einsum("bgd,mgd->bm", low, weights) + bias
    at = query.tensors["at"].long()
    return torch.einsum("bmd,md->bm", low[:, at], weights) + bias


def _distances(query: Query, low: torch.Tensor, which: int) -> torch.Tensor:
    if not len(low):
        return torch.zeros(0, dtype=torch.float64)
    means, basis, precision = (query.tensors[name][which] for name in ("means", "basis", "precision"))
    distance = MahalanobisDistance(means, basis, precision, float(query.tensors["residual"][which]))
    return distance(low[:, int(query.tensors["at"][which])]).double()


def histogram(values: torch.Tensor, bins: int, low: float, high: float) -> torch.Tensor:
    """``[bins + 2]`` counts, with those below ``low`` first and those above ``high`` last; NaN counts as above."""
    position = ((values - low) / (high - low) * bins).floor().nan_to_num(nan=float(bins), posinf=float(bins)) + 1
    return torch.bincount(position.clamp(0, bins + 1).long(), minlength=bins + 2).double()


def edges(bins: int, low: float, high: float) -> torch.Tensor:
    """``[bins + 1]``: the edges between the bins of ``histogram``."""
    return torch.linspace(low, high, bins + 1, dtype=torch.float64)
