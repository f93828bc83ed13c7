"""What all sites of a pooled calibration agree on, and a site's clips in these terms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from sarsteer.data.manifest import Item
from sarsteer.data.text import normalize
from sarsteer.errors import CalibrationError
from sarsteer.steering.gate.fit import readable_layers
from sarsteer.steering.pooled.sketch import columns, sketch_matrix

FIT, CHOOSE, THRESHOLD = 0, 1, 2
"""What a clip does for the gate: it fits detectors, it chooses one, or it sets the threshold."""
_ROWS = 32


@dataclass(frozen=True, eq=False)
class Setting:
    """What sums have in common, so that they can be added.

    Attributes:
        pair_groups, benign_groups: the groups of pairs and of safe requests without a twin.
        center: ``[L, D]``, subtracted from every activation: sums of small numbers keep more digits.
        radius: ``[L]``: an activation that is farther than this from the center is moved to this distance, and a
            difference that is longer is shortened to it.
        rank: r, columns of the sketch; 0 for no second moments, which leaves the safe subspace empty and the gate with
            the difference of means.
        seed: of the sketch, and of which clips fit, choose and set the threshold.
        shares: of the clips that fit detectors and that choose one; the others set the threshold.
        target_fpr: the share of safe requests that may open the gate.

    """

    pair_groups: tuple[str, ...]
    benign_groups: tuple[str, ...]
    center: torch.Tensor = field(repr=False)
    radius: torch.Tensor = field(repr=False)
    rank: int = 64
    seed: int = 0
    shares: tuple[float, float] = (0.6, 0.15)
    target_fpr: float = 0.05

    def __post_init__(self) -> None:
        if self.center.ndim != 2 or self.radius.shape != self.center.shape[:1]:
            raise CalibrationError(
                f"the center must be [L, D] and the radius [L], not {tuple(self.center.shape)} and "
                f"{tuple(self.radius.shape)}"
            )
        if not (torch.isfinite(self.center).all() and torch.isfinite(self.radius).all() and (self.radius > 0).all()):
            raise CalibrationError("the center must be finite, and each radius a finite number above 0")
        if isinstance(self.rank, bool) or self.rank < 0:
            raise CalibrationError(f"the rank must be 0 or more, not {self.rank}")
        if not self.pair_groups or len({*self.pair_groups}) != len(self.pair_groups):
            raise CalibrationError(f"the groups of pairs must be different names, not {list(self.pair_groups)}")

    @property
    def layers(self) -> int:
        """L."""
        return int(self.center.shape[0])

    @property
    def width(self) -> int:
        """D."""
        return int(self.center.shape[1])

    @property
    def columns(self) -> int:
        """Columns of the sketch; D for exact second moments."""
        return columns(self.width, self.rank)

    @property
    def gate_layers(self) -> list[int]:
        """The layers that a gate may read."""
        return readable_layers(self.layers) if self.layers > 1 else []

    @property
    def classes(self) -> list[tuple[str, str]]:
        """Label and group of each class of clips."""
        paired = [(label, group) for label in ("harmful", "safe") for group in self.pair_groups]
        return [*paired, *(("safe", group) for group in self.benign_groups)]

    @property
    def harmful(self) -> torch.Tensor:
        """``[C]``: which classes are harmful."""
        return torch.tensor([label == "harmful" for label, _ in self.classes])

    @property
    def omega(self) -> torch.Tensor:
        """Ω ``[D, r]``."""
        return sketch_matrix(self.width, self.rank, self.seed)

    def part_of(self, item: Item) -> int:
        """``FIT``, ``CHOOSE`` or ``THRESHOLD``, by a hash of the request: the same on every site and in every run.

        The hash is that of the words, so that a request in several voices does one thing only.
        """
        words = normalize(item.question).encode() or item.content_digest
        digest = hashlib.sha256(f"{self.seed}\0".encode() + words).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        return FIT if share < self.shares[0] else CHOOSE if share < sum(self.shares) else THRESHOLD


class Batch(NamedTuple):
    """Some clips' activations minus the center, with the class and part of each.

    Attributes:
        plain: ``[B, L, D]`` of ``h(a, t) − c``.
        difference: ``[B, L, D]`` of ``h(a, t+p) − h(a, t)`` if these are harmful clips.
        twins: whether these are the safe twins of pairs.
        classes, parts: ``[B]``.

    """

    plain: torch.Tensor
    difference: torch.Tensor | None
    twins: bool
    classes: torch.Tensor
    parts: torch.Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """A site's activations. The tensors may be mapped from a file, and are read a few rows at a time.

    Attributes:
        harmful, prompted, safe: ``[n, L, D]``: ``h(a, t)`` and ``h(a, t+p)`` of harmful clips, ``h(a, t)`` of twins.
        benign: ``[b, L, D]``.
        pair_items, benign_items: what these activations are of; for a pair, its safe twin.

    """

    harmful: Any = field(repr=False)
    prompted: Any = field(repr=False)
    safe: Any = field(repr=False)
    benign: Any = field(repr=False)
    pair_items: Sequence[Item] = field(repr=False)
    benign_items: Sequence[Item] = field(repr=False)

    @property
    def records(self) -> int:
        """Pairs and safe requests without a twin."""
        return len(self.pair_items) + len(self.benign_items)

    def check(self, setting: Setting) -> None:
        """Raise ``CalibrationError`` unless the rows fit ``setting``."""
        expected = (setting.layers, setting.width)
        for name in ("harmful", "prompted", "safe", "benign"):
            shape = tuple(getattr(self, name).shape)
            if shape[1:] != expected:
                raise CalibrationError(
                    f"{name} activations have shape {shape} instead of [n, {expected[0]}, {expected[1]}]"
                )
        for items, groups in ((self.pair_items, setting.pair_groups), (self.benign_items, setting.benign_groups)):
            for item in items:
                if item.group not in groups:
                    raise CalibrationError(
                        f"item {item.id!r} is in the group {item.group!r}, and the plan has "
                        f"{', '.join(groups) or 'none'}; plan with this group, or leave the item out"
                    )

    def batches(self, setting: Setting) -> Iterator[Batch]:
        """All clips, a few at a time: harmful clips, their twins, and the other safe ones.

        Raises:
            CalibrationError: an activation is not finite.

        """
        names = setting.classes
        parts = torch.tensor([setting.part_of(item) for item in self.pair_items], dtype=torch.long)
        for label, rows in (("harmful", self.harmful), ("safe", self.safe)):
            classes = [names.index((label, item.group)) for item in self.pair_items]
            prompted = self.prompted if label == "harmful" else None
            yield from self._slices(setting, rows, prompted, label == "safe", classes, parts)
        benign = torch.tensor([setting.part_of(item) for item in self.benign_items], dtype=torch.long)
        classes = [names.index(("safe", item.group)) for item in self.benign_items]
        yield from self._slices(setting, self.benign, None, False, classes, benign)

    @staticmethod
    def _slices(
        setting: Setting, rows: Any, prompted: Any, twins: bool, classes: list[int], parts: torch.Tensor
    ) -> Iterator[Batch]:
        for start in range(0, len(classes), _ROWS):
            end = start + _ROWS
            plain = _tensor(rows[start:end])
            difference = None if prompted is None else _tensor(prompted[start:end]) - plain
            if not torch.isfinite(plain).all() or (difference is not None and not torch.isfinite(difference).all()):
                raise CalibrationError(
                    "the activations contain NaN or infinite values; load the model in bfloat16 or float32"
                )
            yield Batch(plain - setting.center, difference, twins, torch.tensor(classes[start:end]), parts[start:end])


def _tensor(rows: Any) -> torch.Tensor:
    """In float64, copied: a mapped file is read-only."""
    return torch.as_tensor(rows if torch.is_tensor(rows) else rows.copy()).double()
