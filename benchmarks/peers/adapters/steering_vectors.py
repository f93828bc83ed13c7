"""steering-vectors: hooks that add the product of a mask and the vector to the whole sequence."""

from __future__ import annotations

from typing import Any

import torch
from adapters.base import Adapter, Job, difference, stacked
from steering_vectors import SteeringVector
from steering_vectors.train_steering_vector import extract_activations

LAYERS: Any = {"decoder_block": "model.layers.{num}"}
BATCH = 8


class Peer(Adapter):
    """``SteeringVector.patch_activations`` at token index −1; ``extract_activations`` in batches."""

    def attach(self, vectors: torch.Tensor, alpha: float) -> None:
        vector = SteeringVector(dict(enumerate(vectors)), "decoder_block")
        self.handle = vector.patch_activations(
            self.model, layer_config=LAYERS, multiplier=alpha, token_indices=slice(-1, None)
        )

    def detach(self) -> None:
        self.handle.remove()

    def calibrate(self, job: Job) -> dict[str, torch.Tensor]:
        def read(first: list[str], second: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
            found = extract_activations(
                self.model, self.tokenizer, list(zip(first, second, strict=True)), layer_config=LAYERS, batch_size=BATCH
            )
            one, two = (stacked([torch.cat(rows[i]) for i in sorted(rows)]) for rows in found)
            return one, two

        prompted, plain_rows = read(job.prompted, job.plain)
        half = len(job.safe) // 2  # its function reads pairs: the safe requests are two halves of them
        safe = torch.cat(read(job.safe[:half], job.safe[half:]))
        return difference(plain_rows, prompted, safe)
