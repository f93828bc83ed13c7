"""Gates on cached activations, many of them: what ``fit_gate`` fits, in a fifth of its time where D is below the clips.

``fit_gate`` works on products between clips, ``[m, m]``, because a large model's D exceeds m. Here D is 576 and m up to
1,700, so the scatter matrices ``[D, D]`` of the folds are summed once for each layer, and every detector that leaves
out one or two folds is one solve with a sum of them. ``Fits`` compares the first layer of every process with the
package's own ``LayerScores``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from benchmarks.gate_activations import Row
from sarsteer.data.manifest import Item
from sarsteer.data.requests import request_numbers
from sarsteer.steering.gate.clips import FOLDS, Clips
from sarsteer.steering.gate.conformal import conformal_threshold
from sarsteer.steering.gate.fit import TARGET_FPR, readable_layers
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.nested import CrossValidation, LayerScores, combine, nested_scores
from sarsteer.steering.gate.samples import Samples

METHOD = "shrunk LDA"
_checked: list[float] = []
"""The largest difference from the package's scores, once it was measured in this process."""


@dataclass(frozen=True, eq=False)
class Data:
    """Requests and their activations ``[n, L, D]``."""

    rows: list[Row]
    last: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """1 for harmful."""
        return np.array([int(row["label"] == "harmful") for row in self.rows])

    def where(self, fits: Callable[[Row], bool]) -> Data:
        """The requests that fit."""
        return self.at([number for number, row in enumerate(self.rows) if fits(row)])

    def at(self, numbers: Sequence[int]) -> Data:
        """These requests."""
        return Data([self.rows[number] for number in numbers], self.last[list(numbers)])

    def groups(self, *names: str) -> Data:
        """The requests of these groups."""
        return self.where(lambda row: row["group"] in names)

    def __add__(self, other: Data) -> Data:
        return Data(self.rows + other.rows, torch.cat([self.last, other.last]))

    def clips(self) -> tuple[Clips, list[int]]:
        """Pairs, of which both requests are here, and the requests without a pair, as calibration gets them.

        Also the number of each clip's row. A request that is here in two forms or voices is one request.
        """
        pairs: dict[tuple[str, Any], dict[str, int]] = {}
        for number, row in enumerate(self.rows):
            if row["pair"]:
                pairs.setdefault((row["pair"], row["voice"]), {})[row["label"]] = number
        whole = [pair for pair in pairs.values() if len(pair) == 2]
        benign = [number for number, row in enumerate(self.rows) if not row["pair"]]
        harmful, safe = ([pair[label] for pair in whole] for label in ("harmful", "safe"))
        groups = [[self.rows[number]["group"] for number in numbers] for numbers in (safe, benign)]
        units = [*zip(harmful, safe, strict=True), *((number,) for number in benign)]
        requests = request_numbers([[self._item(number) for number in unit] for unit in units])
        clips = Clips.of(
            self.last[harmful],
            self.last[safe],
            self.last[benign],
            *groups,
            pair_requests=requests[: len(whole)],
            benign_requests=requests[len(whole) :],
        )
        return clips, [*harmful, *safe, *benign]

    def _item(self, number: int) -> Item:
        row = self.rows[number]
        return Item(row["id"], row["question"], row["label"], "text", pair=row["pair"])


class _Layer:
    """The clips of one layer, ready to be fitted on any folds."""

    def __init__(self, rows: torch.Tensor, labels: np.ndarray, folds: np.ndarray) -> None:
        x = rows.double().numpy()
        self._center = x.mean(0)
        self._x = x - self._center
        self._squares = np.square(self._x).sum(1)
        self._labels, self._folds = labels, folds
        parts = [self._x[folds == fold] for fold in range(FOLDS)]
        self._scatter = np.stack([part.T @ part for part in parts])
        self._total = self._scatter.sum(0)
        self._sums = np.stack(
            [[self._x[(folds == fold) & (labels == label)].sum(0) for label in (0, 1)] for fold in range(FOLDS)]
        )

    def fit(self, left_out: Sequence[int] = ()) -> tuple[np.ndarray, float]:
        """Weight ``[D]`` and bias of shrunk LDA on the other folds, scaled as ``detectors.scaled`` does."""
        kept = [fold for fold in range(FOLDS) if fold not in left_out]
        rows = np.isin(self._folds, kept)
        counts = [int((self._labels[rows] == label).sum()) for label in (0, 1)]
        n, width = sum(counts), self._x.shape[1]
        sums = self._sums[kept].sum(0)
        means = sums / np.asarray(counts)[:, None]
        mean = sums.sum(0) / n
        scatter = self._total.copy()
        for fold in set(left_out):
            scatter -= self._scatter[fold]
        spread = means.T * counts @ means
        across = (self._x @ means.T)[np.arange(len(rows)), self._labels]
        norms = (self._squares - 2 * across + np.square(means).sum(1)[self._labels])[rows]
        rho, variance = _shrinkage(scatter - spread, norms, width)
        d = means[1] - means[0]
        if variance > 0:
            scatter -= n * np.outer(mean, mean)
            scatter *= (1 - rho) / n
            scatter[np.diag_indices_from(scatter)] += max(rho, 1e-6) * variance
            # symmetric, and LAPACK's order is that of columns: transposing saves a copy
            factor = cho_factor(scatter.T, lower=True, overwrite_a=True, check_finite=False)
            d = cho_solve(factor, d, check_finite=False)
        safe, harmful = (float((m - mean) @ d) for m in means)
        half = (harmful - safe) / 2
        if not half > 0:
            return np.zeros(width), 0.0
        weight = d / half
        return weight, -(harmful + safe) / 2 / half - float(mean @ weight)

    def scores(self) -> LayerScores:
        """As ``LayerScores.of``."""
        held_out, nested = np.full(len(self._x), np.nan), np.full((FOLDS, len(self._x)), np.nan)
        for i in range(FOLDS):
            for j in range(i, FOLDS):
                weight, bias = self.fit((i, j))
                for fold, other in {(i, j), (j, i)}:
                    rows = self._folds == fold
                    found = self._x[rows] @ weight + bias
                    if i == j:
                        held_out[rows] = found
                    else:
                        nested[other, rows] = found
        return LayerScores(held_out, nested)

    def whole(self) -> tuple[np.ndarray, float]:
        """Weight and bias of all clips, for activations that are not centered."""
        weight, bias = self.fit()
        return weight, bias - float(self._center @ weight)


def _shrinkage(scatter: np.ndarray, norms: np.ndarray, width: int) -> tuple[float, float]:
    """As ``distance.ledoit_wolf``, from ``XᵀX`` and the squared norms of X's rows."""
    n = len(norms)
    mu = float(np.trace(scatter)) / n / width
    second = float(np.square(scatter).sum()) / n**2
    noise = (float(np.square(norms).sum()) / n - second) / n
    delta = second - width * mu**2
    return (1.0, mu) if delta <= 0 else (min(max(noise, 0.0), delta) / delta, mu)


class Fits:
    """Gates on some requests, for any choice of layers and rates: each layer's detectors are fitted once.

    As ``fit_gate`` does, in the same folds, but only with shrunk LDA, and without the test against chance and the
    distance limit.
    """

    def __init__(self, data: Data) -> None:
        self.clips, self.rows = data.clips()
        self._layers: dict[int, _Layer] = {}
        self._scores: dict[int, LayerScores] = {}

    def gate(self, layers: Sequence[int] | None = None, share: float = TARGET_FPR) -> Gate:
        """A gate on up to four of ``layers``; by default of those that a gate may read."""
        clips, labels, folds = self.clips, self.clips.labels, self.clips.folds
        tried = readable_layers(clips.depth) if layers is None else layers
        for layer in tried:
            if layer not in self._scores:
                self._layers[layer] = _Layer(clips.at(layer), labels, folds)
                self._scores[layer] = self._layers[layer].scores()
                if not _checked:
                    self._check(layer)
        scores = {(METHOD, layer): self._scores[layer] for layer in tried}
        combination = combine(
            [CrossValidation.of(*key, found.held_out, labels, folds) for key, found in scores.items()], labels, folds
        )
        nested = nested_scores(scores, labels, folds)
        weights, bias = {}, combination.offset
        for layer, factor in zip(combination.layers, combination.factors, strict=True):
            weight, own = self._layers[layer].whole()
            weights[layer] = torch.from_numpy(factor * weight).float()
            bias += factor * own
        *earlier, last = combination.layers
        safe = labels == 0
        requests = np.asarray(clips.requests)[safe].tolist()
        threshold = conformal_threshold(nested[safe].tolist(), share, requests=requests)
        held_out = {"by_row": dict(zip(self.rows, nested.tolist(), strict=True))}
        earlier_weights = {layer: weights[layer] for layer in earlier}
        return Gate(last, weights[last], bias, threshold, earlier=earlier_weights, metadata=held_out)

    def _check(self, layer: int) -> None:
        clips = self.clips
        wanted = LayerScores.of(METHOD, Samples.of(clips.at(layer)), clips.labels, clips.folds)
        _checked.append(float(np.nanmax(np.abs(wanted.nested - self._scores[layer].nested))))
        # both are float64 and solve matrices of condition up to 1e8; a score of one fold spreads by about 1
        if not _checked[0] < 1e-6:
            raise SystemExit(f"the quick fit differs from the package's by {_checked[0]:.2g}: do not use its figures")
