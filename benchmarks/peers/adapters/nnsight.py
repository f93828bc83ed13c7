"""nnsight: an intervention that is traced and run beside the model's forward."""

from __future__ import annotations

from typing import Any

import nnsight
import torch
from adapters.base import Adapter, Job, difference, options, result

BATCH = 8


class Peer(Adapter):
    """``generate`` with an in-place addition at every layer and step; ``trace`` for activations."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.traced = nnsight.TransformersModel(model, tokenizer=tokenizer)

    def attach(self, vectors: torch.Tensor, alpha: float) -> None:
        self.deltas = alpha * vectors

    def detach(self) -> None:
        pass

    def generate(self, ids: torch.Tensor, tokens: int, logits: bool = False) -> Any:
        given = options(ids, tokens, logits)
        layers, deltas = self.traced.model.layers, self.deltas
        with self.traced.generate(given.pop("input_ids"), **given) as tracer:
            for _step in tracer.iter[:tokens]:
                for layer, delta in zip(layers, deltas, strict=True):
                    layer.output[:, -1] += delta
            out = tracer.result.save()
        return result(out, logits)

    @torch.no_grad()
    def calibrate(self, job: Job) -> dict[str, torch.Tensor]:
        def read(texts: list[str]) -> torch.Tensor:
            batches = []
            for start in range(0, len(texts), BATCH):
                inputs = self.tokenizer(
                    texts[start : start + BATCH], padding=True, return_tensors="pt", add_special_tokens=False
                )
                with self.traced.trace(dict(inputs)):
                    rows = nnsight.save([])
                    for layer in self.traced.model.layers:
                        rows.append(layer.output[:, -1].clone())
                batches.append(torch.stack(list(rows), dim=1))
            return torch.cat(batches)

        return difference(read(job.plain), read(job.prompted), read(job.safe))
