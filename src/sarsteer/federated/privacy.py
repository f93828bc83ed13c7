"""Noise for differential privacy, and what it costs: Gaussian noise on every sum of every round.

A record is a pair, or a safe request without a twin. Each of a round's P parts has a largest length per record; noise
of standard deviation ``σ √P`` times this length makes the round a Gaussian mechanism with noise multiplier σ. opacus'
accountant composes the rounds. Each site adds its share, so that the sum has enough noise even if only the smallest
number of sites answers; noise comes from the operating system's random numbers.
"""

from __future__ import annotations

import math
import secrets
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sarsteer.errors import MissingExtraError
from sarsteer.federated.errors import FederationError
from sarsteer.steering.pooled.sums import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Privacy:
    """How much noise a plan asks for.

    Attributes:
        multiplier: σ.
        delta: δ, for which ε is reported.
        rounds: how many rounds are released.

    """

    multiplier: float
    delta: float
    rounds: int

    @classmethod
    def for_epsilon(cls, epsilon: float, delta: float, rounds: int) -> Privacy:
        """The least noise that spends at most (ε, δ) in ``rounds``.

        Raises:
            FederationError: ε or δ is not a positive number, or δ is not below 1.

        """
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise FederationError(f"epsilon must be above 0, not {epsilon}")
        if not 0 < delta < 1:
            raise FederationError(f"delta must be between 0 and 1, not {delta}")
        low, high = 1e-2, 1.0
        while cls(high, delta, rounds).epsilon() > epsilon:
            high *= 2
            if high > 1e6:
                raise FederationError(f"epsilon {epsilon:g} needs more noise than is useful; choose a larger one")
        for _ in range(30):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if cls(middle, delta, rounds).epsilon() > epsilon else (low, middle)
        return cls(float(f"{high * 1.0001:.6g}"), delta, rounds)

    def epsilon(self, rounds: int | None = None) -> float:
        """ε that ``rounds`` rounds spend (all by default), by opacus' accountant of Rényi differential privacy."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from opacus.accountants import RDPAccountant

                accountant = RDPAccountant()
                accountant.history = [(self.multiplier, 1.0, self.rounds if rounds is None else rounds)]
                return float(accountant.get_epsilon(self.delta)) if accountant.history[0][2] else 0.0
        except ImportError:
            raise MissingExtraError("privacy accounting", "federated") from None


def deviations(layout: Layout, multiplier: float) -> Floats:
    """The standard deviation of the noise in each element of the sum of all sites, in units of its part."""
    per_part = multiplier * math.sqrt(len(layout))
    return np.concatenate([np.full(int(np.prod(part.shape)), per_part * part.length) for part in layout.values()])


def noise(layout: Layout, multiplier: float, sites: int, seed: int | None = None) -> Floats:
    """One site's share of the noise, if at least ``sites`` sites add theirs.

    Args:
        layout: the parts of the sums.
        multiplier: σ.
        sites: the smallest number of sites.
        seed: 128 secret random bits, to get the same noise again; by default from the operating system.

    """
    generator = np.random.Generator(np.random.Philox(key=secrets.randbits(128) if seed is None else seed))
    scale = deviations(layout, multiplier)
    return generator.standard_normal(len(scale)) * (scale / math.sqrt(sites))
