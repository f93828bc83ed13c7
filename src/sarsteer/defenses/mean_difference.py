"""Defenses whose vectors are a difference of mean activations of the calibration pairs.

The vectors take long to compute, so they are stored in the run's folder and found again.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sarsteer.defenses.base import DefenseContext, Requirement
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.steered import SteeredDefense, steered
from sarsteer.errors import CalibrationError
from sarsteer.files import atomic_path
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
        parts = [self.name, model.fingerprint.digest, context.pairs.digest, INSTRUCTION]
        parts.append(self.judge_signature(context) or "")
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
        file = None if context.cache is None else context.cache / f"{self.name}-{digest}.safetensors"
        if file is not None and file.is_file():
            return _load(file)
        vectors = self.vectors(context)
        if file is not None:
            from safetensors.torch import save_file

            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as temporary:
                save_file({"vectors": vectors.contiguous()}, temporary)
        return vectors


def last_token_activations(context: DefenseContext, items: list[Item]) -> torch.Tensor:
    """Activations of ``items`` at the last prompt token, ``[n, L, D]``."""
    model: Any = context.model
    turns = [item.turn(INSTRUCTION) for item in items]
    activations: torch.Tensor = model.last_token_activations(turns, batch_size=context.batch_size)
    return activations


def _load(file: Path) -> torch.Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)["vectors"]
    except (SafetensorError, KeyError, OSError):
        raise CalibrationError("is damaged; delete it, and it is computed again", place=str(file)) from None
