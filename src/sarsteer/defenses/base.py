"""What every defense declares: typed options, requirements, and one method that prepares it for a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sarsteer.errors import EvaluationError

if TYPE_CHECKING:
    from sarsteer.data.pairs import Pairs
    from sarsteer.defenses.built import BuiltDefense
    from sarsteer.judges import Judge
    from sarsteer.models.interface import LanguageModel
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.strength import Strength


class Requirement(Enum):
    """What a defense needs besides a model that answers. The value is the text of the error if it is missing."""

    ACTIVATIONS = "a model whose activations can be steered; use a local model"
    STEERING = "a steering file; pass --steering FILE (sarsteer calibrate writes one)"
    PAIRS = "calibration pairs; pass --calibration PAIRS"


@dataclass(frozen=True)
class DefenseContext:
    """What defenses are built from.

    Attributes:
        model: the model to defend.
        steering: the steering file's content.
        pairs: calibration pairs.
        judge: decides which requests the model refuses; the keyword judge by default.
        cache: a folder for vectors that take long to compute.
        strength: the strength of steered defenses, unless they set their own; the steering file's by default.
        seed: of random vectors, unless a defense sets its own.
        batch_size: conversations per forward.
        allow_other_model: steer a model other than the calibrated one, such as a quantized copy.

    """

    model: LanguageModel
    steering: Steering | None = None
    pairs: Pairs | None = None
    judge: Judge | None = None
    cache: Path | None = None
    strength: Strength | None = None
    seed: int = 0
    batch_size: int = 16
    allow_other_model: bool = False

    @property
    def available(self) -> frozenset[Requirement]:
        """The requirements that this context meets."""
        met = {
            Requirement.ACTIVATIONS: self.model.steerable,
            Requirement.STEERING: self.steering is not None,
            Requirement.PAIRS: self.pairs is not None,
        }
        return frozenset(requirement for requirement, is_met in met.items() if is_met)


@dataclass(frozen=True)
class Defense(ABC):
    """One way to make a model refuse: a frozen dataclass whose fields are its options.

    Attributes:
        name: its name in specs.
        requires: what it needs; checked before ``build``.

    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[Requirement]] = frozenset()

    @abstractmethod
    def build(self, context: DefenseContext) -> BuiltDefense:
        """Prepare the defense for ``context.model``; call ``build_defense``, which checks the requirements first.

        Raises:
            SarsteerError: it cannot be built for this model.

        """

    def check(self, available: Collection[Requirement]) -> None:
        """Raise ``EvaluationError`` if a requirement is not available."""
        for requirement in Requirement:
            if requirement in self.requires and requirement not in available:
                raise EvaluationError(f"needs {requirement.value}", place=f"defense {self.name!r}")


def build_defense(defense: Defense, context: DefenseContext) -> BuiltDefense:
    """Check what ``defense`` requires, then build it.

    Raises:
        EvaluationError: something that it requires is missing.
        ModelError: it steers, and the model does not expose its activations.
        ArtifactError: the steering file belongs to another model.

    """
    if Requirement.ACTIVATIONS in defense.requires:
        context.model.check_steerable()
    defense.check(context.available)
    return defense.build(context)
