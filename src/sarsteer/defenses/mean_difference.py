"""Defenses whose vectors are a difference of mean activations of the calibration pairs.

The vectors take long to compute, so they are stored in the run's folder and found again.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sarsteer.defenses.base import DefenseContext, Requirement
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.steered import SteeredDefense, steered
from sarsteer.defenses.vector_cache import cached_vectors
from sarsteer.prompts import INSTRUCTION

if TYPE_CHECKING:
    import torch

    from sarsteer.data.manifest import Item


@dataclass(frozen=True)
class MeanDifference(SteeredDefense):
    """A defense by the difference of two means, raw. Alpha is the run's if not set, else the steering file's."""

    requires: ClassVar[frozenset[Requirement]] = SteeredDefense.requires | {Requirement.PAIRS}

    @abstractmethod
    def vectors(self, context: DefenseContext) -> torch.Tensor:
        """Compute the vectors, ``[L, D]``, with the model unsteered."""

    def judge_signature(self, context: DefenseContext) -> str | None:
        """Signature of the judge that the vectors depend on; None if they depend on none."""
        return None

    def build(self, context: DefenseContext) -> BuiltDefense:
        """Compute the vectors, or load them from the cache."""
        from sarsteer.steering.artifact import DEFAULT_ALPHA
        from sarsteer.steering.strength import ResolvedStrength

        pairs = context.pairs
        assert pairs is not None, "build_defense checks this"
        vectors = self._cached_vectors(context)
        alpha = self.alpha
        if alpha is None and context.strength is not None:
            alpha = context.strength.alpha
        if alpha is None:
            alpha = DEFAULT_ALPHA if context.steering is None else context.steering.defaults[0]
        judge = self.judge_signature(context)
        settings = {"alpha": float(alpha), "pairs_digest": pairs.digest} | ({} if judge is None else {"judge": judge})
        return steered(self.name, ResolvedStrength(vectors, alpha), settings)

    def _cached_vectors(self, context: DefenseContext) -> torch.Tensor:
        model: Any = context.model
        assert context.pairs is not None
        judge = self.judge_signature(context) or ""
        depends_on = (model.fingerprint.identity, context.pairs.digest, INSTRUCTION, judge)
        return cached_vectors(context.cache, self.name, depends_on, lambda: self.vectors(context))


def last_token_activations(context: DefenseContext, items: list[Item]) -> torch.Tensor:
    """Activations of ``items`` at the last prompt token, ``[n, L, D]``."""
    model: Any = context.model
    turns = [item.turn(INSTRUCTION) for item in items]
    activations: torch.Tensor = model.last_token_activations(turns, batch_size=context.batch_size)
    return activations
