"""Granite Speech: its LoRA adapter is on for spoken prompts and off for written ones.

``generate`` switches the adapter if it gets audio features; a bare forward does not. Here clips are encoded before, so
this module switches it. Spoken and written rows are never in one batch if there is an adapter.
"""

from __future__ import annotations

from typing import Any

import torch

from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.family import Family
from sarsteer.models.layers import unwrap
from sarsteer.models.prompt import Prompt


class GraniteSpeech(AudioLanguageModel):
    """A Granite Speech model."""

    @property
    def _has_adapter(self) -> bool:
        return bool(getattr(unwrap(self.module), "_hf_peft_config_loaded", False))

    @property
    def prefix_refusal(self) -> str | None:
        """Why prefixes are not shared: a continuation does not know whether its prompt was spoken."""
        if self._has_adapter:
            return "its speech LoRA is on for spoken prompts only"
        return super().prefix_refusal

    def batches(self, prompts: list[Prompt], size: int) -> list[list[int]]:
        """Like the base class; with an adapter, spoken and written rows are in separate batches."""
        if not self._has_adapter:
            return super().batches(prompts, size)
        kinds = ([i for i, prompt in enumerate(prompts) if bool(prompt.clips) is spoken] for spoken in (True, False))
        return [
            [kind[place] for place in batch]
            for kind in kinds
            for batch in super(GraniteSpeech, self).batches([prompts[i] for i in kind], size)
        ]

    def _switch(self, inputs: dict[str, torch.Tensor]) -> None:
        if self._has_adapter and "input_ids" in inputs:
            inner: Any = unwrap(self.module)
            spoken = "input_features" in inputs or bool((inputs["input_ids"] == self.audio_token_id).any())
            (inner.enable_adapters if spoken else inner.disable_adapters)()

    def forward_base(self, inputs: dict[str, torch.Tensor], **more: Any) -> Any:
        """A forward without ``lm_head``, with the adapter on if the batch has audio."""
        self._switch(inputs)
        return super().forward_base(inputs, **more)

    @torch.no_grad()
    def generate_tokens(self, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
        """The answers' tokens, with the adapter on if the batch has audio."""
        if not self._has_adapter or "input_features" in inputs:
            return super().generate_tokens(inputs, **options)
        from transformers import GenerationMixin

        self._switch(inputs)
        # its own generate would switch the adapter off, because it gets no audio features
        return self.new_tokens(GenerationMixin.generate(unwrap(self.module), **inputs, **options), inputs)


GRANITE_SPEECH = Family(
    "Granite Speech",
    architectures=("GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration"),
    checkpoints=(
        "ibm-granite/granite-speech-3.3-8b",
        "ibm-granite/granite-speech-3.3-2b",
        "ibm-granite/granite-speech-4.1-2b-plus",
    ),
    cuts_at_window=False,
    encode_once=True,
    prefix_reuse=True,
    model_class=GraniteSpeech,
    engines=("transformers", "vllm"),
    limits="its feature extractor needs torchaudio; its speech LoRA is on for spoken rows only",
    tested="real classes, tiny random weights; features by a stand-in of its extractor",
)
