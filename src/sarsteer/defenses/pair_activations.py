"""Activations of the calibration pairs, for defenses that are learned from them when they are built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.vector_cache import cached_vectors

if TYPE_CHECKING:
    import torch


def pair_activations(context: DefenseContext, instruction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the harmful and of the safe calibration requests at the last prompt token, ``[n, L, D]`` each.

    They are computed once per folder.
    """
    model: Any = context.model
    pairs = context.pairs
    assert pairs is not None, "build_defense checks this"

    def compute() -> torch.Tensor:
        turns = [item.turn(instruction) for item in (*pairs.harmful, *pairs.safe)]
        activations: torch.Tensor = model.last_token_activations(turns, batch_size=context.batch_size)
        return activations

    depends_on = (model.fingerprint.digest, pairs.digest, instruction)
    both = cached_vectors(context.cache, "activations", depends_on, compute)
    return both[: len(pairs)], both[len(pairs) :]
