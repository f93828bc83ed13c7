"""A number with its 95 % interval and the count behind it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Clusters = Sequence[Hashable] | None
"""The item that each outcome belongs to; None when every outcome is an item."""


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval.

    Attributes:
        value: the share, in [0, 1]; in [-1, 1] for a difference.
        low, high: the interval.
        n: the number of outcomes.
        clusters: the number of items, when items have several outcomes.

    """

    value: float
    low: float
    high: float
    n: int
    clusters: int | None = None

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] ({self._counts})"

    @property
    def _counts(self) -> str:
        return f"n={self.n}" if self.clusters is None else f"n={self.n} of {self.clusters} items"

    def disjoint(self, other: Estimate) -> bool:
        """Whether the two intervals do not overlap."""
        return self.high < other.low or other.high < self.low


@dataclass(frozen=True)
class Score(Estimate):
    """A number other than a share, such as κ or a score from 1 to 10, with its 95 % interval."""

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] ({self._counts})"
