"""The attacker's budget: the largest change of a sample, held exactly in the 16-bit file that is sent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sarsteer.errors import AttackError
from sarsteer.files import atomic_path

SCALE = 32_768
"""Steps of a 16-bit file in an amplitude of 1."""

Floats = npt.NDArray[np.float64]


def check_epsilon(epsilon: float, name: str = "epsilon", largest: float = 1.0) -> None:
    """Raise ``AttackError`` unless ``epsilon`` is a usable bound of the change of a sample."""
    if not math.isfinite(epsilon) or not 0 < epsilon <= largest:
        raise AttackError(f"{name} must be above 0 and at most {largest:g}, not {epsilon:g}; 1 is full scale")
    if epsilon < 1 / SCALE:
        raise AttackError(
            f"{name} {epsilon:g} is less than one step of a 16-bit file ({1 / SCALE:.3g}), so nothing would change; "
            "use a larger one"
        )


def quantized(samples: Any, clean: Any, radius: Any) -> npt.NDArray[np.int16]:
    """``samples`` as 16-bit integers, none further than ``radius`` from ``clean``.

    Where ``clean`` lies between two 16-bit values and the radius is smaller than the way to either, the nearer one is
    used: a file cannot do better.

    Args:
        samples: ``[T]``, the attacked clip.
        clean: ``[T]``, the clip before.
        radius: ``[T]``, the budget of each sample.

    """
    wanted, center, most = (np.asarray(x, dtype=np.float64) for x in (samples, clean, radius))
    low, high = np.ceil((center - most) * SCALE), np.floor((center + most) * SCALE)
    nearest = np.rint(center * SCALE)
    none = low > high
    low, high = np.where(none, nearest, low), np.where(none, nearest, high)
    whole = np.clip(np.clip(np.rint(wanted * SCALE), low, high), -SCALE, SCALE - 1)
    # center ± radius is rounded to float64: step back where that let a sample out
    off = (np.abs(whole / SCALE - center) > most) & ~none
    whole = np.where(off, whole - np.sign(whole / SCALE - center), whole)
    return whole.astype(np.int16)


def write_16_bit(path: Path, samples: npt.NDArray[np.int16], rate: int) -> None:
    """Write a WAV file of 16-bit ``samples`` ``[T]``, atomically."""
    import soundfile

    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, rate, format="WAV", subtype="PCM_16")


def as_floats(samples: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """The samples as a reader of the file gets them."""
    return (samples.astype(np.float64) / SCALE).astype(np.float32)


def signal_to_noise(samples: Any, clean: Any) -> float | None:
    """The clean clip over the change, in dB; None if nothing changed, or the clip is silent."""
    center = np.asarray(clean, dtype=np.float64)
    change = np.asarray(samples, dtype=np.float64)[: len(center)] - center
    power, noise = float(np.square(center).sum()), float(np.square(change).sum())
    return 10 * math.log10(power / noise) if power > 0 and noise > 0 else None
