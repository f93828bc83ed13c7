"""Projected gradient descent on few audio tokens, after TAGO (2605.04700)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.attacks.gradient.pgd import Pgd
from sarsteer.registry import option


@dataclass(frozen=True)
class TokenSparse(Pgd):
    """Like pgd, only in the audio tokens that have the most gradient at the start; the rest of the clip stays."""

    name: ClassVar[str] = "token-sparse"

    tokens: float = option(0.25, help="share of the audio tokens that change")

    def check(self) -> None:
        """Raise ``AttackError`` if an option is out of range."""
        super().check()
        if not 0 < self.tokens <= 1:
            raise self.reject(f"tokens must be above 0 and at most 1, not {self.tokens:g}")

    def share(self) -> float:
        """The share of tokens."""
        return self.tokens
