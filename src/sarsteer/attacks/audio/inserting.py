"""Insert a sound into a clip."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def inserted(samples: npt.NDArray[np.float32], sound: npt.NDArray[np.float32], parts: int) -> npt.NDArray[np.float32]:
    """``samples`` with ``sound`` at ``parts`` places: before, after, and at equal distances within."""
    if parts == 1:
        return np.concatenate([sound, samples])
    pieces = np.array_split(samples, parts - 1)
    return np.concatenate([part for piece in pieces for part in (sound, piece)] + [sound])
