"""The paper's architectures at full size, without weights: decoder layers are found, and memory is as stated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from sarsteer.models.family import family_named
from sarsteer.models.layers import find_decoder_layers, hidden_size
from sarsteer.reproduction.paper_models import MODELS

# the configuration's fields whose defaults in transformers differ from the published checkpoint
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any], int, int]] = {
    "qwen2-audio": (
        "Qwen2AudioForConditionalGeneration",
        "Qwen2AudioConfig",
        {"text_config": {"model_type": "qwen2", "intermediate_size": 11008, "vocab_size": 156032}},
        32,
        4096,
    ),
    "qwen2.5-omni": (
        "Qwen2_5OmniThinkerForConditionalGeneration",
        "Qwen2_5OmniThinkerConfig",
        {"vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}},
        28,
        3584,
    ),
    "voxtral-mini": ("VoxtralForConditionalGeneration", "VoxtralConfig", {}, 30, 3072),
}


@pytest.mark.parametrize("key", ARCHITECTURES)
def test_a_published_architecture(key: str) -> None:
    architecture, config, changes, layers, width = ARCHITECTURES[key]
    assert family_named(architecture) is not None
    with torch.device("meta"):  # shapes without memory
        model = getattr(transformers, architecture)(getattr(transformers, config)(**changes))
    assert len(find_decoder_layers(model)) == layers
    assert hidden_size(model) == width
    gigabytes = 2 * sum(parameter.numel() for parameter in model.parameters()) / 1e9
    assert gigabytes == pytest.approx(MODELS[key].gigabytes, rel=0.05)
