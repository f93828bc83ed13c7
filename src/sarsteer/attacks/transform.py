"""Audio transforms: attacks that change each clip by a fixed rule, with a strength axis."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import numpy as np

from sarsteer.attacks.base import Attack, AttackContext
from sarsteer.attacks.items import clip_path, with_clip, write_clip
from sarsteer.audio import Clip, load_clip

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item

T = TypeVar("T", bound="Transform")


class Axis(NamedTuple):
    """The strength of a transform.

    Attributes:
        option: the field that sets it.
        label: for charts, with the unit.
        points: values of a curve, from weak to strong.
        low, high: the allowed range.

    """

    option: str
    label: str
    points: tuple[float, ...]
    low: float
    high: float


@dataclass(frozen=True)
class Transform(Attack):
    """An attack that changes each clip on its own."""

    axis: ClassVar[Axis]

    @abstractmethod
    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The changed clip. The same generator gives the same clip."""

    @property
    def strength(self) -> float:
        """The value on the axis."""
        return float(getattr(self, self.axis.option))

    def at(self: T, strength: float) -> T:
        """The same transform at another strength."""
        kind = type(getattr(self, self.axis.option))
        return replace(self, **{self.axis.option: kind(strength)})

    def check(self) -> None:
        """Raise ``AttackError`` if the strength is outside the axis."""
        if not self.axis.low <= self.strength <= self.axis.high:
            limits = f"{self.axis.low:g} to {self.axis.high:g}"
            raise self.reject(f"{self.axis.option} must be from {limits}, not {self.strength:g}")

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """Each clip, changed; finished files are found again."""

        def make(item: Item) -> Item:
            if item.modality != "audio":
                raise self.reject(f"changes clips, and item {item.id!r} is {item.modality}; choose spoken requests")
            path = clip_path(context.folder, item)
            if not path.is_file():
                write_clip(path, self.apply(load_clip(item.audio), context.rng(item.id)))
            return with_clip(item, path)

        attacked = []
        with ThreadPoolExecutor() as pool:  # soxr, scipy and the codecs release the interpreter
            for item in pool.map(make, items):
                attacked.append(item)
                if context.progress is not None:
                    context.progress(len(attacked), len(items))
        return attacked
