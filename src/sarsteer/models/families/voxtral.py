"""Voxtral: mistral-common writes its prompts, instead of a chat template.

Clips are passed as base64-encoded float WAV, which keeps every sample. A user's text cannot inject control tokens,
because mistral-common encodes text and control tokens separately. Clips are padded to a multiple of 30 s and encoded in
windows of 30 s, so that their length has no limit.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from sarsteer.errors import MessageError, ModelError
from sarsteer.messages import Message
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.family import Family


class Voxtral(AudioLanguageModel):
    """A Voxtral model; needs ``mistral-common`` (``pip install 'sarsteer[voxtral]'``)."""

    def check_processor(self) -> None:
        """Raise ``ModelError`` unless the processor uses mistral-common."""
        if not hasattr(self.tokenizer, "apply_chat_template") or not type(self.processor).__name__.startswith(
            "Voxtral"
        ):
            raise ModelError(
                f"{self.name}: its processor is a {type(self.processor).__name__}; use the VoxtralProcessor that "
                "sarsteer.load_model loads"
            )

    def process(
        self, conversations: list[list[Message]], audio_options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The processor's tensors for a batch."""
        from mistral_common.exceptions import MistralCommonException

        encoded = [[{**message, "content": self._parts(message)} for message in row] for row in conversations]
        try:
            return dict(self.processor.apply_chat_template(encoded, add_generation_prompt=True))
        except MistralCommonException as error:
            raise MessageError(" ".join(str(error).split())[:200]) from error

    def _parts(self, message: Message) -> list[dict[str, Any]]:
        return [
            {"type": "audio", "base64": _wav(part["audio"], self.sampling_rate)} if part["type"] == "audio" else part
            for part in message["content"]
        ]


def _wav(samples: Any, rate: int) -> str:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return base64.b64encode(buffer.getvalue()).decode()


VOXTRAL = Family(
    "Voxtral",
    architectures=("VoxtralForConditionalGeneration",),
    checkpoints=("mistralai/Voxtral-Mini-3B-2507", "mistralai/Voxtral-Small-24B-2507"),
    cuts_at_window=False,
    padding_leaks=False,
    encode_once=True,
    prefix_reuse=True,
    model_class=Voxtral,
    engines=("transformers", "vllm"),
    limits="needs mistral-common",
)
