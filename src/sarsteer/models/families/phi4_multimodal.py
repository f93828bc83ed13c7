"""Phi-4-multimodal: a speech LoRA that must be loaded, and a clip's mask that its processor leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sarsteer.errors import MissingExtraError, ModelError
from sarsteer.messages import Message
from sarsteer.models.base import AudioLanguageModel
from sarsteer.models.loading import Loaded, load_with_transformers

ADAPTER = "speech"
SUBFOLDER = "speech-lora"


class Phi4Multimodal(AudioLanguageModel):
    """A Phi-4-multimodal model."""

    def process(
        self, conversations: list[list[Message]], audio_options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The processor's tensors, with a mask also for a single clip."""
        made = super().process(conversations, audio_options)
        features = made.get("audio_input_features")
        if torch.is_tensor(features) and made.get("audio_attention_mask") is None:
            # of a single clip the extractor makes no mask; in a batch each clip needs its own
            made["audio_attention_mask"] = torch.ones(features.shape[:2], dtype=torch.bool)
        return made


def load_with_speech_adapter(source: str, config: Any, **options: Any) -> Loaded:
    """The checkpoint with its speech LoRA switched on: without it the model hardly hears."""
    module, processor, report = load_with_transformers(source, config, **options)
    try:
        module.load_adapter(
            source,
            adapter_name=ADAPTER,
            adapter_kwargs={"subfolder": SUBFOLDER, "revision": options.get("revision")},
        )
    except ImportError:
        raise MissingExtraError("Phi-4-multimodal's speech LoRA", "peft") from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source}: its speech LoRA ({SUBFOLDER}/) cannot be loaded; use a revision that holds it, such as "
            "refs/pr/70 of microsoft/Phi-4-multimodal-instruct"
        ) from error
    module.set_adapter(ADAPTER)
    return module, processor, report
