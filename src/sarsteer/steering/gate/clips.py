"""Calibration's clips: their activations, labels and groups, and the folds that hold some of them out."""

from __future__ import annotations

from collections.abc import Sequence
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

    """

    harmful: torch.Tensor = field(repr=False)
    safe: torch.Tensor = field(repr=False)
    benign: torch.Tensor = field(repr=False)
    pair_groups: tuple[str, ...] = field(repr=False)
    benign_groups: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(
        cls,
        harmful: torch.Tensor,
        safe: torch.Tensor,
        benign: torch.Tensor | None = None,
        pair_groups: Sequence[str] | None = None,
        benign_groups: Sequence[str] | None = None,
    ) -> Clips:
        """Clips with the group ``"all"`` where none is given.

        Raises:
            CalibrationError: the tensors or groups do not fit together, or an activation is not finite.

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
        clips = cls(harmful, safe, benign, tuple(pair_groups), tuple(benign_groups))
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
    def classes(self) -> torch.Tensor:
        """``[m]``: rows of the same label and group have the same number."""
        names = list(zip(self.labels.tolist(), self.groups, strict=True))
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        return torch.tensor([numbers[name] for name in names])

    @property
    def folds(self) -> Labels:
        """``[m]``: the fold that holds each row out. The two clips of a pair are in the same one."""
        pairs = _folds(self.pairs, seed=0)
        return np.concatenate([pairs, pairs, _folds(len(self.benign), seed=1)])

    def at(self, layer: int) -> torch.Tensor:
        """``[m, D]``: the activations at one layer."""
        return torch.cat([self.harmful[:, layer], self.safe[:, layer], self.benign[:, layer]])


def _folds(rows: int, seed: int) -> Labels:
    """``[rows]``: a random fold for each, of equal sizes; fewer rows than folds get one each."""
    from sklearn.model_selection import KFold

    folds = np.arange(rows)
    if rows >= FOLDS:
        for fold, (_, held_out) in enumerate(KFold(FOLDS, shuffle=True, random_state=seed).split(np.arange(rows))):
            folds[held_out] = fold
    return folds
