"""MDSteer-h2s, a baseline of the paper: from the mean harmful activation to the mean safe one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.mean_difference import MeanDifference, last_token_activations

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class HarmfulToSafe(MeanDifference):
    """Mean safe activation minus mean harmful activation, raw."""

    name: ClassVar[str] = "h2s"

    def vectors(self, context: DefenseContext) -> torch.Tensor:
        """From the activations of all pairs."""
        from sarsteer.steering.baselines import h2s

        assert context.pairs is not None
        harmful, safe = (
            last_token_activations(context, items) for items in (context.pairs.harmful, context.pairs.safe)
        )
        return h2s(harmful, safe)
