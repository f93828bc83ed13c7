"""Gemma 3n and Gemma 4.

Their decoders have embeddings of the tokens for each layer besides those of the audio; both come from the model's own
forward. Layers with a sliding window get a cache that keeps all positions when a prefix is continued.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.clip_encoding import decoder_inputs
from sarsteer.models.family import Family
from sarsteer.models.layers import language_root, text_config

PER_LAYER = "per_layer_inputs"


class Gemma(AudioLanguageModel):
    """A Gemma 3n or Gemma 4 model."""

    def __init__(self, module: nn.Module, processor: Any, **options: Any) -> None:
        super().__init__(module, processor, **options)
        root = language_root(module)
        per_layer = getattr(text_config(root), "hidden_size_per_layer_input", None)
        if per_layer and PER_LAYER not in inspect.signature(root.forward).parameters:
            # Gemma 3n in transformers before 5.23 computes them from the tokens, and takes no embeddings
            self.family = replace(self.family, encode_once=False, prefix_reuse=False)
        else:
            _accept_embeddings(root)

    def embed(self, input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The decoder's inputs for tokens ``[B, T]``: embeddings, and those for each layer where it has them."""
        found = decoder_inputs(self.module, {"input_ids": input_ids, "attention_mask": mask})
        return {name: found[name] for name in ("inputs_embeds", PER_LAYER) if torch.is_tensor(found.get(name))}


def _accept_embeddings(root: Any) -> None:
    """Let ``generate`` take a prompt's embeddings.

    transformers has code for it, and refuses it because the parameter is not in the signature. The embeddings for each
    layer belong to the prefill; Gemma 3n would also get them at each step, beside the new token.
    """
    prepare = root.prepare_inputs_for_generation
    if getattr(prepare, PER_LAYER, False):
        return  # another AudioLanguageModel has this module too

    def prepare_inputs(input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if not kwargs.get("is_first_iteration"):
            kwargs.pop(PER_LAYER, None)
        return prepare(input_ids, inputs_embeds=inputs_embeds, **kwargs)

    setattr(prepare_inputs, PER_LAYER, True)
    root.prepare_inputs_for_generation = prepare_inputs


GEMMA_3N = Family(
    "Gemma 3n",
    architectures=("Gemma3nForConditionalGeneration",),
    checkpoints=("google/gemma-3n-E4B-it", "google/gemma-3n-E2B-it"),
    window_seconds=30.0,
    encode_once=True,
    prefix_reuse=True,
    model_class=Gemma,
    engines=("transformers", "vllm"),
    limits="the active one of its four residual streams is steered; its vision tower needs timm and torchvision",
    tested="real classes and processor, tiny random weights, without its vision tower",
)

GEMMA_4 = Family(
    "Gemma 4",
    architectures=("Gemma4ForConditionalGeneration",),
    checkpoints=("google/gemma-4-E4B-it", "google/gemma-4-E2B-it"),
    window_seconds=30.0,
    encode_once=True,
    prefix_reuse=True,
    model_class=Gemma,
    engines=("transformers", "vllm"),
)

GEMMA_4_UNIFIED = Family(
    "Gemma 4 Unified",
    architectures=("Gemma4UnifiedForConditionalGeneration",),
    encode_once=True,
    prefix_reuse=True,
    model_class=Gemma,
)
