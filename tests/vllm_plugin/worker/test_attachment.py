"""Hooks on a worker's layers: the right rows of the right layers get the right vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.layers import local_layers
from tests.support.vllm_parts import LAYERS, WIDTH, Decoder, Speech, single_rows


def test_the_layers_of_the_language_model_are_found() -> None:
    model = Speech()
    assert list(local_layers(model, LAYERS).values()) == list(model.language_model.layers)
    with pytest.raises(SteeringError, match="no lists of 5 layers"):
        local_layers(model, 5)


def test_a_pipeline_stage_steers_its_layers_with_their_vectors() -> None:
    vectors = torch.randn(1, LAYERS, WIDTH)
    start = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    rows = single_rows([0.5, 0.0, 1.0])
    whole = Decoder()
    Attachment(whole, vectors, 8, torch.device("cpu")).fill(rows)
    expected = whole(*start)
    states = start
    for stage in (range(1), range(1, LAYERS)):
        part = Decoder(stage)
        attachment = Attachment(part, vectors, 8, torch.device("cpu"))
        assert list(attachment.layers) == list(stage)
        attachment.fill(rows)
        states = part(*states)
    assert all(torch.equal(a, b) for a, b in zip(states, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("compiled", [False, True])
def test_steered_rows_get_their_vector_in_float32_and_others_keep_every_bit(
    dtype: torch.dtype, sets: int, compiled: bool
) -> None:
    decoder = Decoder().to(dtype)
    vectors = torch.randn(sets, LAYERS, WIDTH)
    stream = torch.randn(5, WIDTH).to(dtype), torch.randn(5, WIDTH).to(dtype)
    attachment = Attachment(decoder, vectors, 6, torch.device("cpu"))
    run = torch.compile(decoder.layers[1], backend="aot_eager") if compiled else decoder.layers[1]
    plain = run(*stream)
    strength = np.array([0.1, 0, 0.7, 0, 1.0], dtype=np.float32)
    chosen = np.array([0, 1, 2, 2, 1], dtype=np.int64) % sets
    attachment.fill(single_rows(strength, chosen))
    hidden, residual = run(*stream)
    added = torch.from_numpy(strength)[:, None] * vectors[torch.from_numpy(chosen), 1]
    assert torch.equal(hidden, plain[0])
    assert torch.equal(residual, (plain[1].float() + added).to(dtype))
    attachment.clear()
    assert torch.equal(run(*stream)[1], plain[1])


def test_a_layer_with_one_output_is_steered_and_other_kinds_are_refused() -> None:
    class Plain(nn.Module):
        def __init__(self, output: Any) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity()])
            self.output = output

    model = Plain(None)
    attachment = Attachment(model, torch.ones(1, 1, WIDTH), 4, torch.device("cpu"))
    attachment.fill(single_rows([0, 1]))
    assert model.layers[0](torch.zeros(2, WIDTH))[:, 0].tolist() == [0, 1]
    with pytest.raises(SteeringError, match="cannot be steered"):
        model.layers[0]((torch.zeros(2, WIDTH), None))


def test_too_many_rows_are_an_error() -> None:
    attachment = Attachment(Decoder(), torch.ones(1, LAYERS, WIDTH), 4, torch.device("cpu"))
    with pytest.raises(SteeringError, match="at most 4"):
        attachment.fill(single_rows([1] * 5))
