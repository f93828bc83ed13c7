"""Defenses that add vectors to the activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sarsteer.defenses.base import Defense, Requirement
from sarsteer.defenses.built import BuiltDefense
from sarsteer.registry import option

if TYPE_CHECKING:
    from sarsteer.steering.strength import ResolvedStrength

S = TypeVar("S", bound="SteeredDefense")


@dataclass(frozen=True)
class SteeredDefense(Defense):
    """A defense that adds vectors, times alpha, to the activations.

    Attributes:
        controllable: whether controls can replace its vectors; not if each request is steered by others.

    """

    controllable: ClassVar[bool] = True
    requires: ClassVar[frozenset[Requirement]] = frozenset({Requirement.ACTIVATIONS})

    alpha: float | None = option(None, help="steering strength; the run's if not set")

    def at_alpha(self: S, alpha: float) -> S:
        """The same defense at another strength."""
        return replace(self, alpha=alpha)


def steered(
    kind: str, strength: ResolvedStrength, settings: Mapping[str, Any], *, steering: str | None = None
) -> BuiltDefense:
    """A defense that adds ``strength``.

    Args:
        kind: its name.
        strength: what is added.
        settings: what shapes it, as JSON; the vectors' digest is added.
        steering: digest of the steering file, if one is used.

    """
    from sarsteer.steering.strength import digest_of

    digest = digest_of(strength.vectors, None)
    whole = {"kind": kind, **settings, "steering": steering, "vectors": digest}
    return BuiltDefense(whole, strength=strength, steering=steering)
