"""Defences behind one interface: SARSteer, and what it is compared with."""

from sarsteer.defenses.factory import Strength, Supplies, check_specs, make_defense
from sarsteer.defenses.interface import UNDEFENDED, Defense
from sarsteer.runtime.answerer import Answerer, Reply

__all__ = ["UNDEFENDED", "Answerer", "Defense", "Reply", "Strength", "Supplies", "check_specs", "make_defense"]
