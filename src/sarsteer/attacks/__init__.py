"""Attacks on a defended model behind one interface. A new attack is one new file.

An attack turns requests into attacked requests: it changes the clip, the text beside it, or the turns before it. The
attacked requests then run through ``sarsteer.evaluation`` like any other benchmark.
"""

from sarsteer.attacks.base import Access, Attack, AttackContext
from sarsteer.attacks.registry import ATTACKS

__all__ = ["ATTACKS", "Access", "Attack", "AttackContext"]
