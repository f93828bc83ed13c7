"""A decoder with vLLM's kind of layers and no attention, so that each row can be computed by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sarsteer.steering.gate.distance import fit_distance
from sarsteer.steering.gate.gate import Gate
from sarsteer.vllm import settings
from sarsteer.vllm.worker import rows
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.requests import SteeredRequests

LAYERS, WIDTH = 4, 8
GATE_LAYER = 1
CLOSE = 1e-5  # float32 sums of eight products in another order


def vector_set(name: str = "default", alpha: float = 0.1) -> settings.VectorSet:
    return settings.VectorSet(name, f"{name}.safetensors", alpha, 2, 1.0, name * 8, LAYERS, WIDTH)


def server_settings(*sets: settings.VectorSet, **options: Any) -> settings.ServerSettings:
    return settings.ServerSettings(sets or (vector_set(),), **options)


class PPMissingLayer(nn.Identity):
    """Has the name of vLLM's placeholder for a layer of another pipeline stage."""


class Layer(nn.Module):
    """Returns (hidden, residual), whose sum is the residual stream, as vLLM's layers do."""

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
        layers = [Layer() for _ in range(LAYERS)]
        self.layers = nn.ModuleList([layer if i in stage else PPMissingLayer() for i, layer in enumerate(layers)])
        self.stage = stage

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for i in self.stage:
            hidden, residual = self.layers[i](hidden, residual)
        return hidden, residual


class Speech(nn.Module):
    """A speech model whose audio tower has a list of layers, too, of the same length."""

    def __init__(self) -> None:
        super().__init__()
        self.audio_tower = nn.Module()
        self.audio_tower.layers = nn.ModuleList(nn.Identity() for _ in range(LAYERS))
        self.language_model = Decoder()

    def get_language_model(self) -> nn.Module:
        return self.language_model


@torch.no_grad()
def forward(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    return torch.add(*decoder(tokens, torch.zeros_like(tokens)))


def single_rows(strengths: Any, sets: Any = 0) -> rows.Rows:
    """Rows of requests of one token each."""
    ones = [1] * len(strengths)
    return rows.rows_of(strengths, sets, [0] * len(strengths), ones, ones)


def scheduler_output(*requests: SimpleNamespace, finished: tuple[str, ...] = ()) -> SimpleNamespace:
    return SimpleNamespace(scheduled_new_reqs=requests, finished_req_ids=set(finished))


# ---- gates ---------------------------------------------------------------------------------------------------------


def gate_at(layer: int = GATE_LAYER, **changes: Any) -> Gate:
    generator = torch.Generator().manual_seed(layer)
    return replace(Gate(layer, torch.randn(WIDTH, generator=generator), 0.1, 0.0), **changes)


def gate_of_layers(*layers: int, **changes: Any) -> Gate:
    """Reads these layers, and decides at the last of them."""
    generator = torch.Generator().manual_seed(sum(layers))
    *earlier, layer = layers
    return gate_at(layer, earlier={other: torch.randn(WIDTH, generator=generator) for other in earlier}, **changes)


def gate_with_distance(**changes: Any) -> Gate:
    generator = torch.Generator().manual_seed(0)
    distance = fit_distance(torch.randn(40, WIDTH, generator=generator), torch.arange(40) % 2)
    return gate_at(distance=distance, **changes)


def random_vectors(sets: int = 1) -> torch.Tensor:
    return torch.randn(sets, LAYERS, WIDTH, generator=torch.Generator().manual_seed(9))


def gated_requests(*gates: Gate | None, max_rows: int = 64) -> tuple[SteeredRequests, Attachment, Decoder]:
    """Sets "0", "1", ... with these gates, over one decoder."""
    sets = [
        replace(vector_set(str(number)), gate_layer=None if gate is None else gate.layer)
        for number, gate in enumerate(gates)
    ]
    requests, decoder = SteeredRequests(server_settings(*sets, bounds=(0, 1))), Decoder()
    attachment = Attachment(decoder, random_vectors(len(gates)), max_rows, torch.device("cpu"), gates)
    requests.attach(attachment)
    return requests, attachment, decoder


class Sequence:
    """A request with random tokens, and the states that the last layer must return for them."""

    def __init__(self, name: str, prompt: int, answer: int, set_index: int, alpha: float) -> None:
        self.name, self.prompt, self.set_index, self.alpha = name, prompt, set_index, alpha
        generator = torch.Generator().manual_seed(hash((prompt, answer, set_index)) % 2**31)
        self.tokens = torch.randn(prompt + answer, WIDTH, generator=generator)
        self.done = 0

    @property
    def params(self) -> SimpleNamespace:
        return SimpleNamespace(extra_args={"sarsteer_alpha": self.alpha, "sarsteer_set": str(self.set_index)})

    @torch.no_grad()
    def states(self, decoder: Decoder, gate: Gate) -> torch.Tensor:
        """The last prompt token's activations in the layers up to the gate's, ``[g + 1, D]``, unsteered."""
        states = [self.tokens[self.prompt - 1]]
        for layer in decoder.layers[: gate.layer + 1]:
            states.append(states[-1] + torch.tanh(layer.linear(states[-1])))
        return torch.stack(states[1:])

    def score(self, decoder: Decoder, gate: Gate) -> float:
        """The gate's score of the request."""
        return float(gate.score(self.states(decoder, gate)))

    @torch.no_grad()
    def expected(self, decoder: Decoder, vectors: torch.Tensor, gate: Gate | None) -> torch.Tensor:
        """The last layer's output, the gate decided in a separate forward of the last prompt token."""
        opening, first = 1.0, 0
        if gate is not None:
            opening = float(gate.strength(self.states(decoder, gate))) if gate.defends else 0.0
            first = gate.layer + 1
        stream = self.tokens.clone()
        for number, layer in enumerate(decoder.layers):
            stream = stream + torch.tanh(layer.linear(stream))
            if number >= first:
                stream[self.prompt - 1 :] += self.alpha * opening * vectors[self.set_index, number]
        return stream
