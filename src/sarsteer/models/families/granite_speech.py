"""Granite Speech: its LoRA adapter is on for spoken prompts and off for written ones.

``generate`` switches the adapter; a bare forward, as calibration runs it, does not. Here the forward switches it too.
Spoken and written rows are never in one batch, because their media differ.
"""

from __future__ import annotations

from typing import Any

import torch

from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.family import Family
from sarsteer.models.layers import unwrap


class GraniteSpeech(AudioLanguageModel):
    """A Granite Speech model."""

    def forward_base(self, inputs: dict[str, torch.Tensor], **more: Any) -> Any:
        """A forward without ``lm_head``, with the adapter on if the batch has audio."""
        inner: Any = unwrap(self.module)
        if getattr(inner, "_hf_peft_config_loaded", False):
            (inner.enable_adapters if "input_features" in inputs else inner.disable_adapters)()
        return super().forward_base(inputs, **more)


GRANITE_SPEECH = Family(
    "Granite Speech",
    architectures=("GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration"),
    checkpoints=("ibm-granite/granite-speech-3.3-8b", "ibm-granite/granite-speech-3.3-2b"),
    cuts_at_window=False,
    model_class=GraniteSpeech,
    engines=("transformers", "vllm"),
    limits="its feature extractor needs torchaudio; its speech LoRA is on for spoken rows only",
    tested="real classes, tiny random weights; features by a stand-in of its extractor",
)
