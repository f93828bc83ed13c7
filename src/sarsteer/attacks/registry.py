"""All attacks: those in this package, and those that installed packages add as entry points ``sarsteer.attacks``."""

from __future__ import annotations

from sarsteer.attacks.base import Attack
from sarsteer.errors import AttackError
from sarsteer.registry import Registry

ATTACKS: Registry[Attack] = Registry("attack", Attack, "sarsteer.attacks", AttackError)  # type: ignore[type-abstract]
