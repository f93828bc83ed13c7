"""A gated defense that also judges noised copies of each request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.noised_copies import NoisedCopies
from sarsteer.errors import EvaluationError
from sarsteer.registry import option


@dataclass(frozen=True)
class Agree(ArtifactDefense):
    """SARSteer with a gate that must stay closed for the request and for each of its noised copies.

    If the gate opens for any of them, or a copy cannot be judged, it is steered as if the gate were open.
    """

    name: ClassVar[str] = "agree"

    copies: int = option(2, argument=True, help="noised copies of each request; each costs one more prefill")
    snr: float = option(20.0, help="of the speech to the noise in a copy, in dB")
    gate: Literal["on", "hard", "logistic"] = option("on", help="the file's gate, or its mode")

    def build(self, context: DefenseContext) -> BuiltDefense:
        """The gated strength and the copies.

        Raises:
            EvaluationError: the number of copies is not from 1 to 16.
            SteeringError: the steering file has no gate.

        """
        if not 1 <= self.copies <= 16:
            raise EvaluationError(f"copies must be from 1 to 16, not {self.copies}", place=f"defense {self.name!r}")
        built = super().build(context)
        strength = built.strength
        assert strength is not None
        assert strength.gate is not None, "the option gate requires one"
        opened = strength.with_vectors(strength.gate.keep_steered(strength.vectors)).with_gate(None)
        settings = {**built.settings, "copies": self.copies, "snr": self.snr}
        return replace(built, settings=settings, copies=NoisedCopies(self.copies, self.snr, opened))
