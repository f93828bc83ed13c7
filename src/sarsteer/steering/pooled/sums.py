"""``Sums``: named float64 tensors that add up. The sums of two sets of clips, added, are the sums of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from sarsteer.errors import CalibrationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor of ``Sums``, and how large a record's share of it can be.

    A record is a pair, or a safe request without a twin.

    Attributes:
        shape: of the tensor.
        unit: broadcasts to ``shape``: no record adds more than one unit to an element.
        length: no record adds more than this Euclidean length, in units, to the whole tensor.

    """

    shape: tuple[int, ...]
    unit: torch.Tensor = field(repr=False)
    length: float

    @classmethod
    def of(cls, *shape: int, unit: torch.Tensor | float = 1.0, length: float = 1.0) -> Part:
        """The part of this shape."""
        return cls(shape, torch.as_tensor(unit, dtype=torch.float64), length)


Layout = Mapping[str, Part]
"""The parts of ``Sums`` by name, in order."""


class Sums(Mapping[str, torch.Tensor]):
    """Sums over clips, by name; float64. ``a + b`` are the sums over the clips of both.

    Raises:
        CalibrationError: sums that are added have other names or shapes.

    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = {name: tensor.double() for name, tensor in tensors.items()}

    @classmethod
    def zeros(cls, layout: Layout) -> Sums:
        """The sums of no clips."""
        return cls({name: torch.zeros(part.shape, dtype=torch.float64) for name, part in layout.items()})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.items())
        return f"Sums({shapes})"

    def __add__(self, other: Sums) -> Sums:
        if list(self) != list(other) or any(self[name].shape != other[name].shape for name in self):
            raise CalibrationError(f"cannot add {other} to {self}: use the same model, groups and rank on every site")
        return Sums({name: tensor + other[name] for name, tensor in self.items()})

    def scaled(self, factor: float) -> Sums:
        """The sums with each clip counted ``factor`` times."""
        return Sums({name: factor * tensor for name, tensor in self.items()})

    @property
    def finite(self) -> bool:
        """Whether no element is NaN or infinite."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.values())

    def packed(self, layout: Layout) -> Floats:
        """All elements in units of their part, as one vector."""
        return np.concatenate([(self[name] / part.unit).reshape(-1).numpy() for name, part in layout.items()])

    @classmethod
    def unpacked(cls, vector: Floats, layout: Layout) -> Sums:
        """The inverse of ``packed``.

        Raises:
            CalibrationError: the vector has another length.

        """
        if len(vector) != size(layout):
            raise CalibrationError(f"a vector of {len(vector)} values does not fit the {size(layout)} of this round")
        tensors, start = {}, 0
        for name, part in layout.items():
            length = int(np.prod(part.shape))
            values = torch.from_numpy(np.array(vector[start : start + length], np.float64)).reshape(part.shape)
            tensors[name] = values * part.unit
            start += length
        return cls(tensors)


def size(layout: Layout) -> int:
    """The number of elements of all parts."""
    return sum(int(np.prod(part.shape)) for part in layout.values())
