"""Controls: a steered defense with other vectors of the same norms. They show what its direction is worth."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.base import DefenseContext, Requirement, build_defense
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.steered import SteeredDefense, steered
from sarsteer.errors import EvaluationError

if TYPE_CHECKING:
    import torch

DIRECTIONS = 5
"""Directions of a control with several: one direction alone can be lucky."""


@dataclass(frozen=True)
class Control(ArtifactDefense):
    """The controlled defense with other vectors: same norms, alpha, gate, prompt and guard.

    Attributes:
        of: the controlled defense; None for ``sarsteer`` with this control's own options.

    """

    of: SteeredDefense | None = field(default=None, kw_only=True)

    def check(self, available: Collection[Requirement]) -> None:
        """Raise ``EvaluationError`` if the controlled defense, or the control, requires what is not available."""
        if self.of is None:
            super().check(available)
        else:
            self.of.check(available)

    def controls(self, defense: SteeredDefense) -> bool:
        """Whether this is a control of ``defense``."""
        from sarsteer.defenses.sarsteer import SarsteerDefense

        if self.of is not None:
            return self.of == defense
        names = ("alpha", "push", "k", "lambda_", "gate", "refusal")
        return type(defense) is SarsteerDefense and all(getattr(self, n) == getattr(defense, n) for n in names)

    def controlled(self, context: DefenseContext) -> BuiltDefense:
        """The controlled defense, built."""
        return super().build(context) if self.of is None else build_defense(self.of, context)

    def with_vectors(self, built: BuiltDefense, vectors: torch.Tensor, **settings: Any) -> BuiltDefense:
        """``built`` with other vectors ``[L, D]``, and ``settings`` that say which."""
        # a control of sarsteer with its own options has the settings of earlier versions
        about = {} if self.of is None else {"control_of": built.settings.get("kind")}
        if built.per_request is not None:
            applied = built.per_request.with_vectors(vectors)
            own = {**built.settings, **settings, **about, "kind": self.name, "vectors": applied.digest}
            return replace(built, settings=own, per_request=applied)
        strength = built.strength
        assert strength is not None, "every SteeredDefense adds vectors"
        strength = strength.with_vectors(vectors)
        own = {**strength.settings, **settings, **about}
        return replace(
            steered(self.name, strength, own, steering=built.steering), prompt=built.prompt, guard=built.guard
        )

    def with_each(self, built: BuiltDefense, directions: Sequence[torch.Tensor], seed: int) -> BuiltDefense:
        """``built`` with each of these vectors ``[L, D]``, of which each request meets one.

        ``seed`` numbers the first of them.
        """
        members = [self.with_vectors(built, vectors, seed=seed + i) for i, vectors in enumerate(directions)]
        if len(members) == 1:
            return members[0]
        digests = [member.settings["vectors"] for member in members]
        settings = {**members[0].settings, "directions": len(members), "vectors": digests}
        pool = tuple(replace(member, details={"direction": seed + i}) for i, member in enumerate(members))
        return BuiltDefense(settings, steering=built.steering, pool=pool)


def check_directions(name: str, directions: int) -> None:
    """Raise ``EvaluationError`` unless there is at least one direction."""
    if directions < 1:
        raise EvaluationError(f"defense {name!r}: directions must be at least 1, not {directions}")
