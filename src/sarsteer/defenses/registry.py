"""All defenses: those in this package, and those that installed packages add as entry points ``sarsteer.defenses``."""

from __future__ import annotations

from sarsteer.defenses.base import Defense
from sarsteer.errors import EvaluationError
from sarsteer.registry import Registry

DEFENSES: Registry[Defense] = Registry("defense", Defense, "sarsteer.defenses", EvaluationError)  # type: ignore[type-abstract]
