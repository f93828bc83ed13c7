"""Phi-4-multimodal: loads its speech LoRA, and adds the mask that its processor omits for a single clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sarsteer.errors import MissingExtraError, ModelError
from sarsteer.messages import Message
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.family import Family
from sarsteer.models.layers import unwrap
from sarsteer.models.loading import Loaded, load_with_transformers

ADAPTER = "speech"
SUBFOLDER = "speech-lora"


class Phi4Multimodal(AudioLanguageModel):
    """A Phi-4-multimodal model."""

    def process(
        self, conversations: list[list[Message]], audio_options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The processor's tensors, always with a mask of the audio features: a batch needs one per clip."""
        tensors = super().process(conversations, audio_options)
        features = tensors.get("audio_input_features")
        if torch.is_tensor(features) and tensors.get("audio_attention_mask") is None:
            tensors["audio_attention_mask"] = torch.ones(features.shape[:2], dtype=torch.bool)
        return tensors

    @torch.no_grad()
    def encode_clip(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The embedding ``[tokens, D]`` of the one clip of a conversation; its decoder embeds tokens by itself."""
        inner: Any = unwrap(self.module)
        decoder = inner.get_decoder()
        ids = inputs["input_ids"]
        audio = {name: tensor for name, tensor in inputs.items() if name.startswith("audio_")}
        embeddings: torch.Tensor = decoder.embed_tokens_extend(ids, decoder.embed_tokens(ids), **audio)
        return embeddings[ids == self.audio_token_id]


def audio_token_id(model: Any) -> int:
    """The id of the audio placeholder."""
    return int(model.config.audio_config.audio_token_id)


def load_with_speech_adapter(source: str, config: Any, **options: Any) -> Loaded:
    """The checkpoint with its speech LoRA on; without it the model hardly understands speech."""
    module, processor, report = load_with_transformers(source, config, **options)
    folder = Path(source) / SUBFOLDER
    try:
        if folder.is_dir():  # transformers 5.20 does not look for a local adapter in a subfolder
            module.load_adapter(str(folder), adapter_name=ADAPTER)
        else:
            module.load_adapter(
                source,
                adapter_name=ADAPTER,
                adapter_kwargs={"subfolder": SUBFOLDER, "revision": options.get("revision")},
            )
    except ImportError:
        raise MissingExtraError("Phi-4-multimodal's speech LoRA", "peft") from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source}: its speech LoRA ({SUBFOLDER}/) cannot be loaded; use a revision that contains it, such as "
            "refs/pr/70 of microsoft/Phi-4-multimodal-instruct"
        ) from error
    module.set_adapter(ADAPTER)
    return module, processor, report


PHI_4_MULTIMODAL = Family(
    "Phi-4-multimodal",
    architectures=("Phi4MultimodalForCausalLM",),
    checkpoints=("microsoft/Phi-4-multimodal-instruct",),
    cuts_at_window=False,
    encode_once=True,
    audio_token_id=audio_token_id,
    prefix_reuse=True,
    model_class=Phi4Multimodal,
    load=load_with_speech_adapter,
    engines=("transformers", "vllm"),
    limits="needs peft and a revision with the speech LoRA (refs/pr/70); images need torchvision",
)
