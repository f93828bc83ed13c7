"""Defenses whose vectors come from a steering file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from sarsteer.defenses.base import DefenseContext, Requirement
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.steered import SteeredDefense, steered
from sarsteer.errors import EvaluationError, SteeringError
from sarsteer.registry import option

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.strength import GateChoice, ResolvedStrength

S = TypeVar("S", bound="ArtifactDefense")

_GATES: dict[str, GateChoice] = {"off": False, "on": True, "hard": "hard", "logistic": "logistic", "shadow": "shadow"}


@dataclass(frozen=True)
class ArtifactDefense(SteeredDefense):
    """A defense that uses a steering file. An option that is not set is the run's, else the file's."""

    requires: ClassVar[frozenset[Requirement]] = SteeredDefense.requires | {Requirement.STEERING}

    push: float | None = option(None, help="instead of alpha: its share of the activations' norm, such as 0.05")
    k: int | None = option(None, help="number of ablated principal components")
    lambda_: float | None = option(None, name="lambda", help="ablation coefficient")
    gate: Literal["off", "on", "hard", "logistic", "shadow"] | None = option(
        None, help="whether the file's gate decides which requests are steered, or in which mode; shadow steers nothing"
    )
    refusal: str | None = option(
        None, help="text that answers requests that open the gate; the model's own steered words if not set"
    )

    def at_alpha(self: S, alpha: float) -> S:
        """The same defense at another strength."""
        return replace(self, alpha=alpha, push=None)

    def resolve(self, context: DefenseContext) -> tuple[Steering, ResolvedStrength]:
        """The steering file, checked against the model, and the strength in use.

        Raises:
            ArtifactError: the file belongs to another model.
            SteeringError: a value is out of range, the file has no gate, or a refusal has no gate that steers.
            EvaluationError: alpha and push are both set.

        """
        from sarsteer.steering.push import alpha_of
        from sarsteer.steering.strength import Strength

        model: Any = context.model
        steering, default = context.steering, context.strength or Strength()
        assert steering is not None, "build_defense checks this"
        steering.check_model(model.fingerprint, allow_other_model=context.allow_other_model)
        chosen = replace(
            default,
            alpha=default.alpha if self.alpha is None else self.alpha,
            k=default.k if self.k is None else self.k,
            lambda_=default.lambda_ if self.lambda_ is None else self.lambda_,
            gate=default.gate if self.gate is None else _GATES[self.gate],
        )
        if self.push is not None:
            if self.alpha is not None:
                raise EvaluationError("alpha and push are both set; set one", place=f"defense {self.name!r}")
            chosen = replace(chosen, alpha=alpha_of(steering, self.push, chosen))
        strength = steering.resolve(chosen)
        if self.refusal is not None and (strength.gate is None or strength.shadow):
            raise SteeringError(
                f"defense {self.name!r}: a refusal needs a gate that steers; add gate=on, or leave refusal out"
            )
        return steering, strength

    def build(self, context: DefenseContext) -> BuiltDefense:
        """The vectors as ``resolve`` returns them."""
        steering, strength = self.resolve(context)
        own = {} if self.refusal is None else {"refusal": self.refusal}
        built = steered(self.name, strength, {**strength.settings, **own}, steering=steering.digest)
        return replace(built, refusal=self.refusal)
