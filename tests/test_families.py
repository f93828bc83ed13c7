"""What holds for every family: its decoder layers are found, steering is proven and exact, removal leaves no trace."""

from __future__ import annotations

import pytest
import torch

from sarsteer import find_decoder_layers
from sarsteer.models.layers import hidden_size
from sarsteer.steering.activations import LastTokenCapture
from sarsteer.steering.hooks import attach
from tests.families import FAMILIES, make
from tests.reference import steered_by_hand

pytestmark = pytest.mark.parametrize("name", list(FAMILIES))


def test_layers_are_found(name: str) -> None:
    model, inputs = make(name)
    layers = find_decoder_layers(model)
    assert len(layers) == model.config.get_text_config(decoder=True).num_hidden_layers
    with torch.no_grad(), LastTokenCapture(layers) as capture:
        model(**inputs)
    activations = capture.activations()
    assert activations.shape == (2, len(layers), hidden_size(model))


@torch.no_grad()
def test_steering_is_proven_exact_and_leaves_no_trace(name: str) -> None:
    model, inputs = make(name)
    layers = find_decoder_layers(model)
    vectors = torch.randn(len(layers), hidden_size(model), generator=torch.Generator().manual_seed(1))
    options = dict(max_new_tokens=6, do_sample=False, eos_token_id=None)
    before = model(**inputs).logits
    plain = model.generate(**inputs, **options)
    with attach(model, layers, vectors, 0.8):
        steered = model.generate(**inputs, **options)
        logits = model(**inputs).logits
    with steered_by_hand(layers, vectors, 0.8):
        by_hand = model.generate(**inputs, **options)
        assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(steered, by_hand)
    assert not torch.equal(logits[:, -1], before[:, -1])
    assert torch.equal(model(**inputs).logits, before)
    assert torch.equal(model.generate(**inputs, **options), plain)
