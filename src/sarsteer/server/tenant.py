"""A tenant: whose requests are defended how."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.gate import Decision
from sarsteer.steering.strength import ResolvedStrength

Exposed = Literal["none", "decision", "score"]


@dataclass(frozen=True, eq=False)
class Tenant:
    """How the requests with one key are answered.

    Attributes:
        name: in logs, metrics and errors.
        strength: what the operator chose. In shadow mode it is decided, not added.
        steering: the steering file's content.
        file: its name, without its folder.
        key_digest: SHA-256 of the API key; None accepts requests without a key.
        shadow: answer undefended, and only record what the gate decides.
        refusal_text: the answer to requests for which the gate opens; None lets the steered model answer.
        expose: what a client sees of a decision. The score helps an attacker to search for requests that pass.
        max_tokens: the longest answer; None for the server's.

    """

    name: str
    strength: ResolvedStrength
    steering: Steering = field(repr=False)
    file: str
    key_digest: bytes | None = field(default=None, repr=False)
    shadow: bool = False
    refusal_text: str | None = None
    expose: Exposed = "decision"
    max_tokens: int | None = None

    @cached_property
    def applied(self) -> ResolvedStrength:
        """What is applied to the model: zeros beside the same gate in shadow mode."""
        return self.strength.with_alpha(0.0) if self.shadow else self.strength

    @cached_property
    def gate_key(self) -> Hashable:
        """Equal for tenants whose requests are judged by the same gate; None without one."""
        return None if self.applied.gate is None else self.applied.gate.digest

    @cached_property
    def strength_key(self) -> Hashable:
        """Equal for tenants whose requests are steered alike."""
        return self.applied.digest, self.applied.alpha

    @cached_property
    def artifact(self) -> str:
        """Digest of the steering file."""
        return self.steering.digest

    @property
    def instruction(self) -> str:
        """The text beside which the artifact was calibrated."""
        return str(self.steering.metadata["instruction"])

    @property
    def mode(self) -> str:
        """``enforce`` or ``shadow``."""
        return "shadow" if self.shadow else "enforce"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings in use as JSON, without key and paths."""
        return {
            "tenant": self.name,
            "mode": self.mode,
            "file": self.file,
            "artifact": self.artifact,
            "digest": self.strength.digest,
            **self.strength.settings,
            "refusal_text": self.refusal_text is not None,
        }

    def outcome(self, decision: Decision | None) -> str:
        """``steered`` without a gate, else ``open`` or ``closed``."""
        if decision is None:
            return "steered"
        return "open" if decision.harmful else "closed"

    def describe(self, decision: Decision | None, exposed: Exposed) -> dict[str, Any]:
        """A decision as JSON, as far as ``exposed`` allows."""
        if exposed == "none":
            return {}
        about: dict[str, Any] = {"decision": self.outcome(decision), "mode": self.mode}
        if exposed == "score":
            opening = 1.0 if decision is None else decision.opening
            about |= {"strength": 0.0 if self.shadow else self.strength.alpha * opening}
            if decision is not None:
                about |= {
                    "score": decision.score,
                    "distance": decision.distance,
                    "out_of_distribution": decision.out_of_distribution,
                }
        return about
