"""The proof finds a layer whose hook does not act, and rows that leak."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sarsteer.errors import SteeringError
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.proof import ROWS, prove
from tests.support.vllm_parts import LAYERS, WIDTH, Decoder


def run_decoder(decoder: Decoder, start: torch.Tensor) -> Any:
    return lambda: torch.add(*decoder(start, torch.zeros_like(start)))


def test_the_proof_passes_and_restores_the_vectors() -> None:
    decoder, vectors = Decoder(), torch.randn(2, LAYERS, WIDTH)
    attachment = Attachment(decoder, vectors, 8, torch.device("cpu"))
    prove(attachment, run_decoder(decoder, torch.randn(ROWS, WIDTH)))
    assert attachment.intact
    assert not attachment.strengths.any()
    attachment.write_vectors(0, torch.zeros(2, WIDTH))
    assert not attachment.intact


@pytest.mark.parametrize("number", range(LAYERS))
def test_the_proof_fails_if_any_layer_has_no_hook(number: int) -> None:
    decoder = Decoder()
    attachment = Attachment(decoder, torch.randn(1, LAYERS, WIDTH), 8, torch.device("cpu"))
    decoder.layers[number]._forward_hooks.clear()  # like a graph that was compiled without it
    with pytest.raises(SteeringError, match=f"the hook on decoder layer {number} does not act"):
        prove(attachment, run_decoder(decoder, torch.randn(ROWS, WIDTH)))


def test_the_proof_fails_if_a_marked_row_changes_others() -> None:
    decoder = Decoder()
    attachment = Attachment(decoder, torch.randn(1, LAYERS, WIDTH), 8, torch.device("cpu"))
    run = run_decoder(decoder, torch.randn(ROWS, WIDTH))
    with pytest.raises(SteeringError, match="changed other rows"):
        prove(attachment, lambda: run().roll(1, 0) + run())
