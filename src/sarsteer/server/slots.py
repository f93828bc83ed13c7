"""A key-value cache whose rows come and go: each row of a batch has its own length."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

_STEP = 64
"""Positions are allocated in multiples of this, so that a longer row rarely copies the cache."""


class Slots:
    """Keys and values of up to ``size`` rows, of any lengths. Rows ``0`` to ``len - 1`` are in use.

    Attributes:
        lengths: ``[B]``, on the device: the number of positions of each row in use.

    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._layers: list[_SlotLayer] = []
        self.lengths = torch.zeros(0, dtype=torch.long, device=device)
        self._longest = 0
        self._rows = torch.arange(size, device=device)

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, cache: Any, mask: torch.Tensor) -> None:
        """Add the rows of a prefill.

        Args:
            cache: of the prefill, as transformers returns it.
            mask: ``[B, T]``, 1 for tokens; padded on the left.

        """
        first, width = len(self), mask.shape[1]
        lengths = mask.sum(dim=1)
        counts = lengths.tolist()
        if not self._layers:
            self._layers = [_SlotLayer(layer.keys, layer.values, self._size) for layer in cache.layers]
        self._reserve(max(counts) + 1)
        for mine, theirs in zip(self._layers, cache.layers, strict=True):
            for row, count in enumerate(counts):
                mine.keys[first + row, :, :count] = theirs.keys[row, :, width - count :]
                mine.values[first + row, :, :count] = theirs.values[row, :, width - count :]
        self.lengths = torch.cat([self.lengths, lengths])
        self._longest = max(self._longest, *counts)

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows, in the order of ``compact``: row ``i`` becomes what row ``rows[i]`` was."""
        for place, row in enumerate(rows):
            if place != row:
                for layer in self._layers:
                    layer.keys[place] = layer.keys[row]
                    layer.values[place] = layer.values[row]
        self.lengths = self.lengths[rows]
        self._longest = int(self.lengths.max()) if rows else 0

    def next(self) -> tuple[Cache, torch.Tensor, torch.Tensor]:
        """Room for one more position of each row.

        Returns:
            the cache that writes it; its position in each row, ``[B]``; the positions that rows attend to, ``[B, T]``.

        """
        positions, rows = self.lengths, self._rows[: len(self)]
        self.lengths = positions + 1
        self._longest += 1
        self._reserve(self._longest)
        for layer in self._layers:
            layer.write_at(rows, positions, self._longest)
        seen = torch.arange(self._longest, device=positions.device)[None] <= positions[:, None]
        return Cache(layers=list(self._layers)), positions, seen

    def _reserve(self, length: int) -> None:
        for layer in self._layers:
            layer.reserve(length)


def compact(done: list[bool]) -> list[int]:
    """Rows that are not done, with as few moves as possible: gaps are filled from the end."""
    rows = list(range(len(done)))
    place = 0
    while place < len(rows):
        if not done[rows[place]]:
            place += 1
        else:
            last = rows.pop()
            if place < len(rows):
                rows[place] = last
    return rows


class _SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One decoder layer's part: ``[rows, heads, positions, width]``. Unused positions are zeros, never NaN."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: int) -> None:
        super().__init__()
        self.keys = keys.new_zeros(rows, keys.shape[1], 0, keys.shape[3])
        self.values = values.new_zeros(rows, values.shape[1], 0, values.shape[3])
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def reserve(self, length: int) -> None:
        """Have at least ``length`` positions."""
        missing = length - self.keys.shape[2]
        if missing > 0:
            more = -(-missing // _STEP) * _STEP
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, more))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, more))

    def write_at(self, rows: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        """Write the next ``update`` at these positions; attention reads the first ``length``."""
        self._at_rows, self._at_positions, self._length = rows, positions, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write ``[B, heads, 1, width]``, and return what the rows attend to."""
        rows = len(self._at_rows)
        self.keys[self._at_rows, :, self._at_positions] = key_states[:, :, 0]
        self.values[self._at_rows, :, self._at_positions] = value_states[:, :, 0]
        return self.keys[:rows, :, : self._length], self.values[:rows, :, : self._length]

    def get_seq_length(self) -> int:
        """The positions that attention reads."""
        return int(self._length)
