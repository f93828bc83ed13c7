"""A decoder as vLLM's are, small enough to follow by hand: no attention, so that each row is its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sarsteer.vllm import settings
from sarsteer.vllm.worker import rows

LAYERS, WIDTH = 4, 8


def one_set(name: str = "default", alpha: float = 0.1) -> settings.VectorSet:
    return settings.VectorSet(name, f"{name}.safetensors", alpha, 2, 1.0, name * 8, LAYERS, WIDTH)


def configured(*sets: settings.VectorSet, **options: Any) -> settings.ServerSettings:
    return settings.ServerSettings(sets or (one_set(),), **options)


class PPMissingLayer(nn.Identity):
    """Named as vLLM's placeholder of a layer that another pipeline stage holds."""


class Layer(nn.Module):
    """A layer of vLLM's kind: it returns what is to be added, and the stream so far."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stream = hidden + residual
        return torch.tanh(self.linear(stream)), stream


class Decoder(nn.Module):
    def __init__(self, stage: range = range(LAYERS)) -> None:
        super().__init__()
        torch.manual_seed(0)
        made = [Layer() for _ in range(LAYERS)]
        self.layers = nn.ModuleList([layer if i in stage else PPMissingLayer() for i, layer in enumerate(made)])
        self.stage = stage

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for i in self.stage:
            hidden, residual = self.layers[i](hidden, residual)
        return hidden, residual


class Speech(nn.Module):
    """Has layers in its audio tower, too, and as many."""

    def __init__(self) -> None:
        super().__init__()
        self.audio_tower = nn.Module()
        self.audio_tower.layers = nn.ModuleList(nn.Identity() for _ in range(LAYERS))
        self.language_model = Decoder()

    def get_language_model(self) -> nn.Module:
        return self.language_model


def row_by_row(strengths: Any, sets: Any = 0) -> rows.Rows:
    """Rows of requests of one token each."""
    each = [1] * len(strengths)
    return rows.rows_of(strengths, sets, [0] * len(strengths), each, each)
