"""Voxtral: its prompts are made by mistral-common, not by a chat template.

Clips travel as float WAV in base64, so that no sample is lost on the way; control tokens in a user's text cannot come
up, since mistral-common encodes text and control tokens apart. Every clip is padded to a multiple of 30 s and encoded
in windows of 30 s, so that length is no limit.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from sarsteer.errors import MessageError, ModelError
from sarsteer.messages import Message
from sarsteer.models.base import AudioLanguageModel


class Voxtral(AudioLanguageModel):
    """A Voxtral model; needs ``mistral-common`` (``pip install 'sarsteer[voxtral]'``)."""

    def check_processor(self) -> None:
        """Accept only a processor that uses mistral-common."""
        if not hasattr(self.tokenizer, "apply_chat_template") or not type(self.processor).__name__.startswith(
            "Voxtral"
        ):
            raise ModelError(f"{self.name}: needs a VoxtralProcessor, which mistral-common makes; load it again")

    def process(
        self, conversations: list[list[Message]], audio_options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The processor's tensors; mistral-common writes the prompt."""
        from mistral_common.exceptions import MistralCommonException

        spoken = [[{**message, "content": self._parts(message)} for message in row] for row in conversations]
        try:
            return dict(self.processor.apply_chat_template(spoken, add_generation_prompt=True))
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
