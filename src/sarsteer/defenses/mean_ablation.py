"""Mean ablation: what ablating one direction, the mean's, is worth instead of the principal components."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.steered import steered


@dataclass(frozen=True)
class MeanAblation(ArtifactDefense):
    """Refusal vectors with the mean safe activation ablated."""

    name: ClassVar[str] = "mean-ablation"

    k: int | None = field(default=0, init=False)
    push: float | None = field(default=None, init=False)  # its vectors are not those that a push is computed from
    refusal: str | None = field(default=None, init=False)

    def build(self, context: DefenseContext) -> BuiltDefense:
        """The refusal vectors without their part along the mean safe activation."""
        from sarsteer.steering.baselines import mean_ablation
        from sarsteer.steering.subspace import weighted

        steering, strength = self.resolve(context)
        ablated = mean_ablation(steering.refusal, steering.safe_mean, strength.lambda_)
        strength = strength.with_vectors(weighted(ablated, strength.layer_weights))
        settings = {name: value for name, value in strength.settings.items() if name != "k"}
        return steered(self.name, strength, settings, steering=steering.digest)
