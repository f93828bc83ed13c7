"""Saved progress of a search with many steps: tensors in one safetensors file, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.files import atomic_path

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SavedState:
    """The state of one search: a step number and named tensors.

    A state that was saved with other settings, or is damaged, is ignored, and the search starts again.

    Attributes:
        path: its file; the folder is created when it is saved.
        depends_on: everything that the tensors depend on, as JSON.

    """

    path: Path
    depends_on: Mapping[str, Any] = field(repr=False)

    def load(self) -> tuple[int, dict[str, torch.Tensor]] | None:
        """The number of finished steps and the tensors; None if there is nothing to continue."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("depends_on") != self._digest:
                    return None
                return int(about["step"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def save(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace the saved state, atomically: after a kill there is this state or the one before."""
        from safetensors.torch import save_file

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                temporary,
                {"step": str(step), "depends_on": self._digest},
            )

    @property
    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self.depends_on, sort_keys=True).encode()).hexdigest()
