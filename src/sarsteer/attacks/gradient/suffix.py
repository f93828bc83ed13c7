"""An optimized sound after the clip, which itself stays as it is; after AdvWave and AudioJailbreak (2505.14103)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sarsteer.attacks.gradient.attack import GradientAttack, Sound
from sarsteer.attacks.gradient.budget import check_epsilon
from sarsteer.errors import AttackError
from sarsteer.registry import option


@dataclass(frozen=True)
class Suffix(GradientAttack):
    """Adds an optimized sound of at most epsilon after each clip."""

    name: ClassVar[str] = "suffix"
    version: ClassVar[int] = 2
    from_noise: ClassVar[bool] = True

    epsilon: float = option(0.1, argument=True, help="largest sample of the added sound; 1 is full scale")
    seconds: float = option(1.0, help="length of the added sound")

    @property
    def strength(self) -> float:
        """The loudness of the added sound."""
        return self.epsilon

    def check_budget(self) -> None:
        """Raise ``AttackError`` if loudness or length is out of range."""
        check_epsilon(self.epsilon)
        if not 0.02 <= self.seconds <= 20:
            raise AttackError(f"seconds must be from 0.02 to 20, not {self.seconds:g}")

    def sound(self, samples: np.ndarray[Any, Any], rate: int) -> Sound:
        """Silence after the clip, which the search fills."""
        added = round(self.seconds * rate)
        base = np.concatenate([samples, np.zeros(added, np.float32)])
        return Sound(base, np.where(np.arange(len(base)) < len(samples), 0.0, self.epsilon))
