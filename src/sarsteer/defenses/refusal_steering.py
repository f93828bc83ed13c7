"""Refusal steering: SARSteer without its ablation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from sarsteer.defenses.from_artifact import ArtifactDefense


@dataclass(frozen=True)
class RefusalSteering(ArtifactDefense):
    """Refusal vectors without ablation (k = 0)."""

    name: ClassVar[str] = "refusal-steering"

    k: int | None = field(default=0, init=False)
