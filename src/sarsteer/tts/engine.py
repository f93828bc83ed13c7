"""What every speech engine does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sarsteer.audio import Clip


@dataclass(frozen=True)
class Engine(ABC):
    """A speech engine. The same text, voice and speed give the same sound, as far as the engine allows.

    Attributes:
        name: the name in specs and manifests.
        default_voice: the voice if none is given.
        in_flight: how many clips may be requested in parallel.

    Raises:
        SpeechError, MissingExtraError: the engine is not installed.

    """

    name: ClassVar[str]
    default_voice: ClassVar[str]
    in_flight: ClassVar[int] = 1

    @property
    @abstractmethod
    def version(self) -> str:
        """What determines the sound besides text, voice and speed: the engine's release, or the requested model."""

    @abstractmethod
    def check_voice(self, voice: str) -> None:
        """Check that a voice exists, before anything is spoken.

        Raises:
            SpeechError: it does not.

        """

    @abstractmethod
    def speak(self, text: str, voice: str, speed: float) -> Clip:
        """Speak a text; ``speed`` is relative to the engine's default.

        Raises:
            SpeechError: the text cannot be spoken.

        """
