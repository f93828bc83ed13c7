"""Granite Speech: a LoRA that the language model wears only while it hears.

``generate`` puts it on for inputs with speech and takes it off for text alone; a bare forward, as calibration runs it,
does not. Spoken and written rows are therefore never in one batch (their media differ), and the forward does as
``generate`` would.
"""

from __future__ import annotations

from typing import Any

import torch

from sarsteer.models.base import AudioLanguageModel
from sarsteer.models.layers import unwrap


class GraniteSpeech(AudioLanguageModel):
    """A Granite Speech model."""

    def forward_base(self, inputs: dict[str, torch.Tensor], **more: Any) -> Any:
        """A forward without ``lm_head``, with the LoRA on where there is speech."""
        inner: Any = unwrap(self.module)
        if getattr(inner, "_hf_peft_config_loaded", False):
            (inner.enable_adapters if "input_features" in inputs else inner.disable_adapters)()
        return super().forward_base(inputs, **more)
