"""Speech from any server that has OpenAI's ``/v1/audio/speech``."""

from __future__ import annotations

from typing import Any

from sarsteer.audio import Clip, load_clip
from sarsteer.errors import AudioError, SpeechError
from sarsteer.models.api.errors import explain
from sarsteer.models.api.model import ApiModel
from sarsteer.tts.engine import Engine


class OpenAIEngine(Engine):
    """A hosted voice. What it says of one text may change from day to day: the clips are what counts, so keep them."""

    name = "openai"
    default_voice = "alloy"
    in_flight = 4

    def __init__(self, model: str | None = None, base_url: str | None = None) -> None:
        # the model behind the API is what knows about keys, addresses and tries; only the call differs
        self._model = ApiModel(f"openai/{model or 'gpt-4o-mini-tts'}", base_url=base_url)
        self.version = f"{self._model.served_name} at {self._model.base_url}"

    def check_voice(self, voice: str) -> None:
        """Only the server knows its voices."""
        if not voice.strip():
            raise SpeechError("openai: name a voice, such as alloy")

    def speak(self, text: str, voice: str, speed: float) -> Clip:
        """Ask for a WAV, and check it as any clip."""
        where = f"{self._model.name}: {text!r}: "
        options = {} if speed == 1 else {"speed": speed}  # some servers do not know the field
        try:
            with self._model.new_client() as client:
                answer: Any = client.audio.speech.create(
                    model=self._model.served_name, voice=voice, input=text, response_format="wav", **options
                )
                data = answer.content
        except Exception as error:  # only the client's own: it also lets through what its transport raises
            told = explain(error, self._model.served_name, self._model.base_url, self._model.tries)
            raise SpeechError(f"{where}{told}") from error
        try:
            return load_clip(data, name=f"the server's answer to {text!r}")
        except AudioError as error:
            raise SpeechError(f"{self._model.name}: {error}; the engine openai needs a server that sends WAV") from None
