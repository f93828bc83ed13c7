"""Defenses behind one interface: SARSteer, and what it is compared with. A new defense is one new file."""

from sarsteer.defenses.base import Defense, DefenseContext, Requirement, build_defense
from sarsteer.defenses.built import UNDEFENDED, BuiltDefense
from sarsteer.defenses.registry import DEFENSES

__all__ = [
    "DEFENSES",
    "UNDEFENDED",
    "BuiltDefense",
    "Defense",
    "DefenseContext",
    "Requirement",
    "build_defense",
]
