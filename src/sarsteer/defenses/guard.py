"""Transcribe-then-guard: the model writes down the request, and a text model decides whether it is answered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from sarsteer.defenses.base import Defense, DefenseContext, Requirement
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.request_guard import (
    MAX_NEW_TOKENS,
    RequestGuard,
    check_guard,
    open_guard,
    transcription_of,
)
from sarsteer.errors import EvaluationError
from sarsteer.prompts import GUARD_REFUSAL
from sarsteer.registry import option

OWN = ("self", "words")
"""Guards that use only the model and the calibration pairs."""


@dataclass(frozen=True)
class GuardDefense(Defense):
    """A text model reads the model's transcript of each request and stops harmful ones."""

    name: ClassVar[str] = "guard"

    guard: str = option(
        argument=True,
        help="llama-guard:MODEL, rubric:MODEL, self (the model itself), words (a classifier trained on the calibration "
        "pairs), or embedded for sarsteer-tiny",
    )

    refusal: str = option(GUARD_REFUSAL, help="text that answers requests that the guard stops")

    def __post_init__(self) -> None:
        if self.guard not in OWN:
            check_guard(self.guard)

    def check(self, available: Collection[Requirement]) -> None:
        """Raise ``EvaluationError`` if the guard needs calibration pairs that are not available."""
        super().check(available)
        if self.guard == "words" and Requirement.PAIRS not in available:
            raise EvaluationError(f"needs {Requirement.PAIRS.value}", place="defense 'guard:words'")

    def build(self, context: DefenseContext) -> BuiltDefense:
        """Load the guard's model, or train the classifier."""
        guard = self._own(context) if self.guard in OWN else open_guard(self.guard)
        settings = {
            "kind": self.name,
            "guard": guard.signature,
            "transcribe": guard.transcribe,
            "refusal": self.refusal,
        }
        return BuiltDefense(settings, guard=guard, refusal=self.refusal)

    def _own(self, context: DefenseContext) -> RequestGuard:
        from sarsteer.defenses.own_guards import SelfGuard, trained_on

        model: Any = context.model
        transcribe = transcription_of(model.name)
        if self.guard == "self":
            return SelfGuard(model, transcribe)
        assert context.pairs is not None, "build_defense checks this"
        fingerprint = getattr(model, "fingerprint", None)
        return trained_on(
            context.pairs,
            lambda turns: list(model.generate(turns, MAX_NEW_TOKENS, batch_size=context.batch_size)),
            transcribe,
            cache=context.cache,
            depends_on=model.name if fingerprint is None else fingerprint.digest,
        )
