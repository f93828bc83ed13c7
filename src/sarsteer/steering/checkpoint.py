"""The checkpoint of a calibration: a killed run resumes and ends with the same numbers."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sarsteer.errors import CalibrationError
from sarsteer.files import atomic_path
from sarsteer.steering.pooled.sums import Part, Sums

_SUMS = {"difference": "difference_sum", "harmful": "harmful_sum"}
"""Names in ``sums``, and in the file."""
_ROWS = ("norms", "harmful", "safe", "benign")


@dataclass
class CalibrationState:
    """Sums, as federated calibration adds them up, and the activations that PCA and the gate need individually.

    Attributes:
        done: number of pairs processed.
        sums: over harmful clips, ``[L, D]``: ``difference`` of ``h(a, t+p) − h(a, t)``, and ``harmful`` of ``h(a, t)``.
        norms: ``[n, L]`` norms of ``h(a, t)`` of harmful clips.
        harmful, safe: ``[n, L, D]`` ``h(a, t)`` of the clips, float32; rows from ``done`` on are not filled yet.
        benign: ``[b, L, D]`` the same of safe requests without a twin; rows from ``benign_done`` on are not filled yet.
        benign_done: number of these processed.
        settings: the settings that a resumed run must share.

    """

    done: int
    sums: Sums
    norms: torch.Tensor
    harmful: torch.Tensor
    safe: torch.Tensor
    benign: torch.Tensor
    settings: dict[str, Any]
    benign_done: int = 0

    @classmethod
    def empty(cls, pairs: int, benign: int, layers: int, width: int, settings: dict[str, Any]) -> CalibrationState:
        """The state before the first pair."""
        others = torch.zeros(benign, layers, width)
        sums = Sums.zeros({name: Part.of(layers, width) for name in _SUMS})
        rows = torch.zeros(pairs, layers, width)
        return cls(0, sums, torch.zeros(pairs, layers), rows, rows.clone(), others, settings)

    def add(self, plain: torch.Tensor, prompted: torch.Tensor, safe: torch.Tensor) -> None:
        """Add a batch of pairs, each tensor ``[B, L, D]``."""
        end = self.done + len(plain)
        difference = prompted.double() - plain.double()
        self.sums = self.sums + Sums({"difference": difference.sum(0), "harmful": plain.double().sum(0)})
        self.norms[self.done : end] = plain.norm(dim=-1)
        self.harmful[self.done : end] = plain
        self.safe[self.done : end] = safe
        self.done = end

    def add_benign(self, activations: torch.Tensor) -> None:
        """Add a batch of safe requests without a twin, ``[B, L, D]``."""
        end = self.benign_done + len(activations)
        self.benign[self.benign_done : end] = activations
        self.benign_done = end


def save_state(path: str | os.PathLike[str], state: CalibrationState) -> None:
    """Write the state, whole or not at all."""
    from safetensors.torch import save_file

    tensors = {name: getattr(state, name) for name in _ROWS}
    tensors |= {_SUMS[name]: tensor for name, tensor in state.sums.items()}
    counts = {"done": str(state.done), "benign_done": str(state.benign_done)}
    header = {**counts, "settings": json.dumps(state.settings)}
    with atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, metadata=header)


class CheckpointWriter:
    """Saves a growing state as often as costs at most a twentieth of the time; without a path it does nothing."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = path
        self._duration, self._saved_at = 0.0, -math.inf

    def update(self, state: CalibrationState) -> None:
        """Save ``state``, unless the last save was too recent."""
        if self._path is None or time.monotonic() - self._saved_at < 20 * self._duration:
            return
        began = time.monotonic()
        save_state(self._path, state)
        self._saved_at = time.monotonic()
        self._duration = self._saved_at - began


def load_state(path: str | os.PathLike[str] | None, settings: dict[str, Any]) -> CalibrationState | None:
    """The state in ``path``, or None if there is no such file.

    Raises:
        CalibrationError: the file is from a run with other settings, or is damaged.

    """
    if path is None or not Path(path).exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in _ROWS}
            sums = Sums({name: file.get_tensor(key) for name, key in _SUMS.items()})
            done, benign_done = int(header["done"]), int(header["benign_done"])
            stored = json.loads(header["settings"])
    except (SafetensorError, OSError, KeyError, ValueError):
        raise CalibrationError(
            "is not a calibration checkpoint; delete it to start from scratch", place=str(path)
        ) from None
    changed = sorted(key for key in settings if stored.get(key) != settings[key])
    if changed:
        raise CalibrationError(
            f"is from a run with another {', '.join(changed)}; delete it to start from scratch, or use its settings",
            place=str(path),
        )
    return CalibrationState(done, sums, **tensors, settings=settings, benign_done=benign_done)
