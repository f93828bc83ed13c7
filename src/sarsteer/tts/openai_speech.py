"""Speech from a server with OpenAI's ``/v1/audio/speech``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from sarsteer.audio import Clip, load_clip
from sarsteer.errors import AudioError, SpeechError
from sarsteer.models.api.address import without_password
from sarsteer.models.api.errors import explain
from sarsteer.models.api.model import ApiModel
from sarsteer.registry import option
from sarsteer.tts.engine import Engine


@dataclass(frozen=True)
class OpenAIEngine(Engine):
    """A hosted voice. It may say the same text differently tomorrow: keep the clips."""

    name: ClassVar[str] = "openai"
    default_voice: ClassVar[str] = "alloy"
    in_flight: ClassVar[int] = 4
    model: str = option("gpt-4o-mini-tts", argument=True, help="the speech model")
    base_url: str | None = option(None, help="the server's URL; OPENAI_BASE_URL, or OpenAI, by default")

    def __post_init__(self) -> None:
        if self.base_url is not None and self.base_url != without_password(self.base_url):
            problem = "base_url contains a password, which would be stored with the clips; set OPENAI_BASE_URL instead"
            raise SpeechError(problem, place=self.name)
        _ = self._api  # checks the key and the address

    @cached_property
    def _api(self) -> ApiModel:
        return ApiModel(f"openai/{self.model}", base_url=self.base_url)

    @property
    def version(self) -> str:
        """The model and the server."""
        return f"{self._api.served_name} at {self._api.base_url}"

    def check_voice(self, voice: str) -> None:
        """Check that there is a name: only the server knows its voices."""
        if not voice.strip():
            raise SpeechError("the voice has no name; use a voice such as alloy", place=self.name)

    def speak(self, text: str, voice: str, speed: float) -> Clip:
        """Request a WAV, and check it like any clip."""
        options = {} if speed == 1 else {"speed": speed}  # some servers reject the field
        try:
            with self._api.new_client() as client:
                answer: Any = client.audio.speech.create(
                    model=self._api.served_name, voice=voice, input=text, response_format="wav", **options
                )
                data = answer.content
        except Exception as error:  # the client also lets through what its transport raises
            reason = explain(error, self._api.served_name, self._api.base_url, self._api.tries)
            raise SpeechError(reason, place=f"{self._api.name}: {text!r}") from error
        try:
            return load_clip(data, name=f"the server's answer to {text!r}")
        except AudioError as error:
            problem = f"{error}; the engine openai needs a server that sends WAV"
            raise SpeechError(problem, place=self._api.name) from None
