"""Projected gradient descent on one clip, in the L∞ norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sarsteer.attacks.gradient.attack import GradientAttack, Sound, whole_clip
from sarsteer.attacks.gradient.budget import check_epsilon
from sarsteer.registry import option


@dataclass(frozen=True)
class Pgd(GradientAttack):
    """Changes each sample of a clip by at most epsilon, along the gradient through model, steering and gate."""

    name: ClassVar[str] = "pgd"

    epsilon: float = option(0.005, argument=True, help="largest change of a sample; 1 is full scale")

    @property
    def strength(self) -> float:
        """The budget."""
        return self.epsilon

    def check_budget(self) -> None:
        """Raise ``AttackError`` if epsilon is out of range."""
        check_epsilon(self.epsilon)

    def sound(self, samples: np.ndarray[Any, Any], rate: int) -> Sound:
        """The whole clip."""
        return whole_clip(samples, self.epsilon)
