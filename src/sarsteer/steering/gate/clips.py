"""Calibration's clips: their activations, labels, groups and requests, and the folds that hold some of them out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from sarsteer.errors import CalibrationError
from sarsteer.steering.gate.conformal import ALL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int64]

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Clips:
    """n harmful clips, then their n safe twins, then b other safe clips: m = 2n + b rows.

    Attributes:
        harmful, safe: ``[n, L, D]`` at the last prompt token; row i of both is pair i.
        benign: ``[b, L, D]``, safe clips without a twin.
        pair_groups, benign_groups: what each pair and each other clip has in common with others, such as
            ``"borderline"`` or ``"everyday"``.
        pair_requests, benign_requests: the number of each one's request. Clips with the same number, such as one
            request in two voices, are held out together.

    """

    harmful: torch.Tensor = field(repr=False)
    safe: torch.Tensor = field(repr=False)
    benign: torch.Tensor = field(repr=False)
    pair_groups: tuple[str, ...] = field(repr=False)
    benign_groups: tuple[str, ...] = field(repr=False)
    pair_requests: tuple[int, ...] = field(repr=False)
    benign_requests: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(
        cls,
        harmful: torch.Tensor,
        safe: torch.Tensor,
        benign: torch.Tensor | None = None,
        pair_groups: Sequence[str] | None = None,
        benign_groups: Sequence[str] | None = None,
        pair_requests: Sequence[Hashable] | None = None,
        benign_requests: Sequence[Hashable] | None = None,
    ) -> Clips:
        """Clips with the group ``"all"`` where none is given, and a request of its own for each pair and other clip.

        Requests are equal where they are the same, as numbers from ``request_numbers``.

        Raises:
            CalibrationError: the tensors, groups or requests do not fit together, or an activation is not finite.

        """
        if benign is None:
            benign = harmful[:0]
        pair_groups = [ALL] * len(harmful) if pair_groups is None else pair_groups
        benign_groups = [ALL] * len(benign) if benign_groups is None else benign_groups
        if harmful.shape != safe.shape or harmful.shape[1:] != benign.shape[1:]:
            raise CalibrationError(
                f"harmful, safe and other clips have activations of shapes {tuple(harmful.shape)}, "
                f"{tuple(safe.shape)} and {tuple(benign.shape)}; every harmful clip needs one twin, in one model"
            )
        if len(pair_groups) != len(harmful) or len(benign_groups) != len(benign):
            raise CalibrationError(
                f"{len(pair_groups)} and {len(benign_groups)} groups for {len(harmful)} pairs and {len(benign)} clips"
            )
        units = [
            [(name, row) for row in range(count)] if given is None else list(given)
            for name, count, given in (("pair", len(harmful), pair_requests), ("benign", len(benign), benign_requests))
        ]
        if [len(names) for names in units] != [len(harmful), len(benign)]:
            raise CalibrationError(
                f"requests of {len(units[0])} and {len(units[1])} for {len(harmful)} pairs and {len(benign)} clips"
            )
        numbers: dict[Hashable, int] = {}
        requests = [tuple(numbers.setdefault(name, len(numbers)) for name in names) for names in units]
        clips = cls(harmful, safe, benign, tuple(pair_groups), tuple(benign_groups), requests[0], requests[1])
        if not all(torch.isfinite(clips.at(layer)).all() for layer in range(clips.depth)):
            raise CalibrationError(
                "the activations contain NaN or infinite values; load the model in bfloat16 or float32"
            )
        return clips

    @property
    def pairs(self) -> int:
        """N."""
        return len(self.harmful)

    @property
    def depth(self) -> int:
        """L."""
        return int(self.harmful.shape[1])

    @property
    def labels(self) -> Labels:
        """``[m]``, 1 for harmful."""
        return np.repeat([1, 0], [self.pairs, self.pairs + len(self.benign)])

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each row."""
        return (*self.pair_groups, *self.pair_groups, *self.benign_groups)

    @property
    def requests(self) -> tuple[int, ...]:
        """The number of each row's request; the two clips of a pair have the same one."""
        return (*self.pair_requests, *self.pair_requests, *self.benign_requests)

    @property
    def distinct_pairs(self) -> int:
        """Number of different requests among the pairs."""
        return len(set(self.pair_requests))

    @property
    def classes(self) -> torch.Tensor:
        """``[m]``: rows of the same label and group have the same number."""
        names = list(zip(self.labels.tolist(), self.groups, strict=True))
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        return torch.tensor([numbers[name] for name in names])

    @property
    def folds(self) -> Labels:
        """``[m]``: the fold that holds each row out. Rows of one request, as the two of a pair, are in the same one."""
        paired = list(dict.fromkeys(self.pair_requests))
        others = sorted(set(self.benign_requests) - set(paired))
        fold = dict(zip(paired, _folds(len(paired), seed=0), strict=True))
        fold |= dict(zip(others, _folds(len(others), seed=1), strict=True))
        return np.array([fold[request] for request in self.requests], dtype=np.int64)

    def at(self, layer: int) -> torch.Tensor:
        """``[m, D]``: the activations at one layer."""
        return torch.cat([self.harmful[:, layer], self.safe[:, layer], self.benign[:, layer]])


def _folds(rows: int, seed: int) -> Labels:
    """``[rows]``: a random fold for each request, of equal sizes; fewer requests than folds get one each."""
    from sklearn.model_selection import KFold

    folds = np.arange(rows)
    if rows >= FOLDS:
        for fold, (_, held_out) in enumerate(KFold(FOLDS, shuffle=True, random_state=seed).split(np.arange(rows))):
            folds[held_out] = fold
    return folds
