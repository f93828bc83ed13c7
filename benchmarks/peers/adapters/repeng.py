"""repeng: each decoder layer is replaced by a module that calls it."""

from __future__ import annotations

from typing import Any

import repeng.extract as extract
import torch
from adapters.base import Adapter, Job, difference, stacked
from repeng import ControlModel

BATCH = 8


def at_the_last(current: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
    """Its operator for how activations and control are combined: only at the last position."""
    current[:, -1] += control[:, -1]
    return current


class Peer(Adapter):
    """``ControlModel`` with an operator for the last position; its own function for hidden states."""

    note = "steers all tokens by default; here with an operator that adds at the last one"

    def attach(self, vectors: torch.Tensor, alpha: float) -> None:
        self.control = ControlModel(self.model, range(len(vectors)))
        raw = {layer: alpha * vector for layer, vector in enumerate(vectors)}
        self.control.set_raw_control(raw, operator=at_the_last)

    def detach(self) -> None:
        self.control.unwrap()

    def calibrate(self, job: Job) -> dict[str, torch.Tensor]:
        extract.tqdm.tqdm = _silent
        layers = list(range(len(self.model.model.layers) - 1))

        def read(texts: list[str]) -> torch.Tensor:
            found = extract.batched_get_hiddens(self.model, self.tokenizer, texts, layers, BATCH)
            return stacked([torch.from_numpy(found[layer]) for layer in layers])

        both = read([text for pair in zip(job.prompted, job.plain, strict=True) for text in pair])
        return difference(both[1::2], both[::2], read(job.safe))


def _silent(items: Any, **_options: Any) -> Any:
    return items
