"""Aim at the whole answer: steering acts on each decoded token, and can undo an attack on the first ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.attacks.gradient.pgd import Pgd
from sarsteer.registry import option


@dataclass(frozen=True)
class LongAnswer(Pgd):
    """Like pgd, with the undefended model's whole answer as the target instead of its start."""

    name: ClassVar[str] = "long-answer"

    target_tokens: int = option(96, help="tokens of the wanted answer in the objective")
