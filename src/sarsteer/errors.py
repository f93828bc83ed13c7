"""Errors that a user can fix. Each message is one line: what is wrong, with the value, and what to do."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable
from typing import TypeVar

E = TypeVar("E", bound="SarsteerError")


class SarsteerError(Exception):
    """Base of all errors that this package raises on purpose. The command line prints the message and exits with 2.

    Attributes:
        message: what is wrong and what to do, without the place.
        place: where: a file, an item or a request, such as ``"conversation 3"``; ``str(error)`` begins with it.
        index: position of the bad request in the batch that the caller gave; None if the error is not about one.

    """

    def __init__(self, message: str, *, place: str | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.index = index

    def __str__(self) -> str:
        return self.message if self.place is None else f"{self.place}: {self.message}"

    def at(self: E, place: str | None, index: int | None = None) -> E:
        """The same error at another place, for a caller that knows more about it than its position in a batch.

        A place that names more than a position, such as a file, stays in the message.
        """
        moved = copy.copy(self)
        moved.message = self.message if self.index is not None else str(self)
        moved.place, moved.index = place, index
        return moved


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown ``word``: its nearest name among ``known``, or nothing."""
    names = list(known)
    by_lower = {name.lower(): name for name in reversed(names)}
    beginnings = [name for name in by_lower if len(word) > 2 and name.startswith(word.lower())]
    nearest = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7) or beginnings
    return f". Did you mean {by_lower[nearest[0]]!r}?" if nearest else ""


class AudioError(SarsteerError):
    """A clip cannot be read, or is longer than the model's window."""


class MessageError(SarsteerError):
    """A conversation does not have the form that models take."""


class ManifestError(SarsteerError):
    """A manifest of clips is malformed or incomplete."""


class BenchmarkError(SarsteerError):
    """A benchmark is unknown, missing, gated, or not in its documented format."""


class SpeechError(SarsteerError):
    """A text cannot be spoken by this engine or in this voice."""


class ModelError(SarsteerError):
    """A model is unknown, cannot be loaded, or cannot be steered."""


class AnswerError(ModelError):
    """A server accepted one request and returned no usable answer. Other requests may succeed."""


class JudgeError(SarsteerError):
    """A judge cannot be created, or cannot continue."""


class EvaluationError(SarsteerError):
    """An evaluation cannot continue, or its results cannot be read."""


class AttackError(SarsteerError):
    """An attack is unknown, or does not fit the model, the defense or the requests."""


class ArtifactError(SarsteerError):
    """A steering file is damaged, has another format, or does not fit the model."""


class CalibrationError(SarsteerError):
    """Calibration cannot run with these pairs or settings."""


class TuningError(SarsteerError):
    """Tuning cannot run, or no setting meets the limits."""


class SteeringError(SarsteerError):
    """Steering was requested and would not be applied exactly. Nothing was answered."""


class SteeringWarning(UserWarning):
    """Steering was attached as requested, and does not defend the model."""


class MissingExtraError(SarsteerError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: run pip install 'sarsteer[{extra}]'")
        self._arguments = (what, extra)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return MissingExtraError, self._arguments
