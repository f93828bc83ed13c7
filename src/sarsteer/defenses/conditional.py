"""Rivals whose steering depends on the request, learned from the activations of the calibration pairs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sarsteer.defenses.base import DefenseContext, Requirement
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.pair_activations import pair_activations
from sarsteer.prompts import INSTRUCTION
from sarsteer.steering.per_request import PerRequestSteering

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ConditionalDefense(ArtifactDefense):
    """A defense with the refusal vectors of the steering file, without ablation, and factors of its own."""

    requires: ClassVar[frozenset[Requirement]] = ArtifactDefense.requires | {Requirement.PAIRS}

    k: int | None = field(default=0, init=False)
    lambda_: float | None = field(default=None, init=False)
    refusal: str | None = field(default=None, init=False)
    gate: Literal["off"] | None = field(default="off", init=False)

    @abstractmethod
    def steering(
        self, context: DefenseContext, vectors: torch.Tensor, alpha: float
    ) -> tuple[PerRequestSteering, dict[str, Any]]:
        """What is applied, and the settings that shape it besides the vectors, as JSON."""

    def build(self, context: DefenseContext) -> BuiltDefense:
        """Learn from the calibration pairs; their activations are computed once per folder."""
        steering, strength = self.resolve(context)
        assert context.pairs is not None, "build_defense checks this"
        applied, about = self.steering(context, strength.vectors, strength.alpha)
        settings = {
            "kind": self.name,
            "alpha": strength.alpha,
            **about,
            "pairs_digest": context.pairs.digest,
            "steering": steering.digest,
            "vectors": applied.digest,
        }
        return BuiltDefense(settings, per_request=applied, steering=steering.digest)

    def activations(self, context: DefenseContext) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the harmful and of the safe calibration requests at the last prompt token, ``[n, L, D]`` each."""
        instruction = INSTRUCTION if context.steering is None else context.steering.metadata["instruction"]
        return pair_activations(context, instruction)
