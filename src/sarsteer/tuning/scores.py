"""Estimates of a configuration's rates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SurrogateScores:
    """The surrogate's estimates in [0, 1] of what generation would measure.

    Attributes:
        asr: harmful requests whose answer would not start as a refusal.
        over_refusal: safe requests whose answer would.
        broken: requests whose reference text would break, on the path that their first token takes; 0 for models
            whose prefixes cannot be shared, which are scored by first tokens only.

    """

    asr: float
    over_refusal: float
    broken: float

    @property
    def cost(self) -> float:
        """The cost in usefulness."""
        return self.over_refusal + self.broken
