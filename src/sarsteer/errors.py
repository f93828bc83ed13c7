"""Errors that a user can mend. Each message is one line that names what is wrong and what to do."""

from __future__ import annotations


class SarsteerError(Exception):
    """Base of every error this package raises on purpose; the command line prints it and exits with 2."""


class AudioError(SarsteerError):
    """A clip cannot be read, or a model cannot hear it whole."""


class MessageError(SarsteerError):
    """A conversation does not have the form that models take."""


class ManifestError(SarsteerError):
    """A manifest of clips is malformed or incomplete."""


class BenchmarkError(SarsteerError):
    """A benchmark is unknown, not there, may not be fetched, or is not in its format."""


class SpeechError(SarsteerError):
    """A text cannot be spoken: by this engine, in this voice, or at all."""


class ModelError(SarsteerError):
    """A model is unknown, cannot be loaded, or is of a kind that cannot be steered."""


class AnswerError(ModelError):
    """A server took one request and gave nothing for it that can be used; other requests may fare better."""


class JudgeError(SarsteerError):
    """A judge cannot be made, or cannot go on."""


class EvaluationError(SarsteerError):
    """An evaluation cannot go on, or its results cannot be read."""


class ArtifactError(SarsteerError):
    """A steering file is damaged, of another format, or does not fit the model."""


class CalibrationError(SarsteerError):
    """Calibration cannot go on with these pairs or settings."""


class TuningError(SarsteerError):
    """Strengths cannot be searched for, or no strength does what was asked."""


class SteeringError(SarsteerError):
    """Steering was asked for and would not have been applied exactly; nothing was answered."""


class MissingExtraError(SarsteerError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part: run pip install 'sarsteer[{extra}]'")
