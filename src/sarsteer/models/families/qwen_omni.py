"""Qwen2.5-Omni and Qwen3-Omni: only the thinker is loaded.

The thinker encodes audio and images and writes the answer; talker and vocoder only speak it. Those are never steered,
the wrapper around them ignores ``max_new_tokens``, and without them the model takes a fifth less memory.
"""

from __future__ import annotations

from typing import Any

import torch

from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.family import Family
from sarsteer.models.layers import language_root
from sarsteer.models.loading import Loaded, load_with_transformers

_LIMITS = "thinker only: it answers in text, without speech"


class QwenOmni(AudioLanguageModel):
    """The thinker of a Qwen-Omni model.

    Its three rotary positions (M-RoPE) are equal at tokens and audio; only images and video differ, and prompts with
    those share no prefix.
    """

    @torch.no_grad()
    def generate_tokens(self, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
        """The answers' tokens; after a prefix, positions continue from it and not from the last batch."""
        if inputs.get("past_key_values") is not None:
            base: Any = language_root(self.module).base_model
            base.rope_deltas = inputs["attention_mask"].new_zeros(len(inputs["attention_mask"]), 1)
        return super().generate_tokens(inputs, **options)


def load_thinker(source: str, config: Any, **options: Any) -> Loaded:
    """The thinker of a Qwen-Omni checkpoint, with its processor."""
    import transformers

    (architecture, *_) = config.architectures
    thinker = architecture.replace("ForConditionalGeneration", "ThinkerForConditionalGeneration")
    if not hasattr(config, "thinker_config") or not hasattr(transformers, thinker):
        return load_with_transformers(source, config, **options)  # the checkpoint is a thinker already
    model_class = getattr(transformers, thinker)
    module, report = model_class.from_pretrained(source, output_loading_info=True, **options)
    common = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    return module, transformers.AutoProcessor.from_pretrained(source, **common), report


QWEN2_5_OMNI = Family(
    "Qwen2.5-Omni",
    architectures=("Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniThinkerForConditionalGeneration"),
    checkpoints=("Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B"),
    window_seconds=300.0,
    padding_leaks=False,
    encode_once=True,
    prefix_reuse=True,
    model_class=QwenOmni,
    load=load_thinker,
    engines=("transformers", "vllm"),
    limits=_LIMITS,
)

QWEN3_OMNI = Family(
    "Qwen3-Omni",
    architectures=("Qwen3OmniMoeForConditionalGeneration", "Qwen3OmniMoeThinkerForConditionalGeneration"),
    checkpoints=("Qwen/Qwen3-Omni-30B-A3B-Instruct", "Qwen/Qwen3-Omni-30B-A3B-Thinking"),
    cuts_at_window=False,
    encode_once=True,
    prefix_reuse=True,
    model_class=QwenOmni,
    load=load_thinker,
    engines=("transformers", "vllm"),
    limits=_LIMITS,
)
