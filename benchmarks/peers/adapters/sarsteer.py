"""sarsteer."""

from __future__ import annotations

from typing import Any

import torch
from adapters.base import Adapter, Job

from sarsteer import calibrate
from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pair, Pairs
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.steering.handle import attach
from sarsteer.steering.strength import ResolvedStrength


class Peer(Adapter):
    """Hooks with a proof that they steer; guards on ``generate``."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.wrapped = AudioLanguageModel(model, tokenizer, name="peers")

    def attach(self, vectors: torch.Tensor, alpha: float) -> None:
        self.handle = attach(self.model, self.wrapped.decoder_layers, ResolvedStrength(vectors, alpha))

    def detach(self) -> None:
        self.handle.remove()

    def calibrate(self, job: Job) -> dict[str, torch.Tensor]:
        def item(text: str, label: str, number: int) -> Item:
            return Item(id=f"{label}-{number}", question=text, label=label, modality="text")

        pairs = Pairs(
            [
                Pair(str(i), item(p["harmful"], "harmful", i), item(p["safe"], "safe", i))
                for i, p in enumerate(job.pairs)
            ]
        )
        steering = calibrate(self.wrapped, pairs, target_fpr=None)
        return {"refusal": steering.refusal, "safe_mean": steering.safe_mean}
