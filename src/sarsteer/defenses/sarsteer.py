"""SARSteer (arXiv 2510.17633): refusal vectors without their part in the safe subspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.defenses.from_artifact import ArtifactDefense


@dataclass(frozen=True)
class SarsteerDefense(ArtifactDefense):
    """Refusal vectors with the safe subspace ablated."""

    name: ClassVar[str] = "sarsteer"
