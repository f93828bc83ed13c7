"""saklas: hooks that add a stored offset to every position."""

from __future__ import annotations

import torch
from adapters.base import Adapter
from saklas.core.hooks import SteeringManager, install_persistent_offset_hooks


class Peer(Adapter):
    """Its persistent offset hooks, in transformers' ``generate``."""

    positions = "all"
    note = "adds to every position, so its prompts are steered throughout"

    def attach(self, vectors: torch.Tensor, alpha: float) -> None:
        self.manager = SteeringManager()
        offsets, handles = install_persistent_offset_hooks(
            self.model.model.layers, vectors.shape[1], self.model.device, self.model.dtype
        )
        self.manager.adopt_compiled_offsets(offsets, handles)
        self.manager.write_compiled_offsets(dict(enumerate(alpha * vectors)))

    def detach(self) -> None:
        self.manager.detach_compiled_offsets()
