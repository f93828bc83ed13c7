"""Transcribe-then-guard: the model writes down the request, and a text model decides whether it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.defenses.base import Defense, DefenseContext
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.request_guard import check_guard, open_guard
from sarsteer.prompts import GUARD_REFUSAL
from sarsteer.registry import option


@dataclass(frozen=True)
class GuardDefense(Defense):
    """A text model reads the model's transcript of each request and stops harmful ones."""

    name: ClassVar[str] = "guard"

    guard: str = option(argument=True, help="llama-guard:MODEL, rubric:MODEL, or embedded for sarsteer-tiny")

    def __post_init__(self) -> None:
        check_guard(self.guard)

    def build(self, context: DefenseContext) -> BuiltDefense:
        """Load the guard's model."""
        guard = open_guard(self.guard)
        settings = {
            "kind": self.name,
            "guard": guard.signature,
            "transcribe": guard.transcribe,
            "refusal": GUARD_REFUSAL,
        }
        return BuiltDefense(settings, guard=guard)
