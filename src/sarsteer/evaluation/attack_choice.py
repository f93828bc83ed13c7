"""The attacks that a command line names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sarsteer.attacks.base import Attack
from sarsteer.attacks.registry import ATTACKS
from sarsteer.attacks.transform import Transform
from sarsteer.errors import AttackError


@dataclass(frozen=True)
class PlannedAttack:
    """An attack, and its name in tables and logs: the user's text."""

    spec: str
    attack: Attack

    @property
    def key(self) -> str:
        """The folder of its requests; other options or another version have another one."""
        content = f"{type(self.attack).__module__}\0{self.attack!r}\0{self.attack.version}"
        return f"{self.attack.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def parse_attacks(specs: Sequence[str], *, curves: bool = False) -> tuple[PlannedAttack, ...]:
    """The attacks that ``specs`` name.

    Args:
        specs: such as ``noise:snr=5``.
        curves: run each audio transform at every point of its axis instead.

    Raises:
        AttackError: an attack is unknown, occurs twice, or an option is invalid.

    """
    planned: list[PlannedAttack] = []
    for spec in specs:
        attack = ATTACKS.parse(spec)
        if curves and isinstance(attack, Transform):
            points = [attack.at(value) for value in attack.axis.points]
            planned += [PlannedAttack(ATTACKS.spec_of(point), point) for point in points]
        else:
            planned.append(PlannedAttack(spec, attack))
    names = [one.spec for one in planned]
    for one in planned:
        one.attack.check()
        if names.count(one.spec) > 1:
            raise AttackError(f"attack {one.spec!r} occurs twice; pass it once, or with other options")
    return tuple(planned)
