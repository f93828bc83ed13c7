"""Where a judge's model runs: behind an OpenAI-compatible endpoint, or here through transformers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from sarsteer.errors import JudgeError, SarsteerError
from sarsteer.judges.interface import Verdict
from sarsteer.messages import Message

API_PREFIX = "openai/"
Reply = str | SarsteerError
"""What a model said, or why it did not: an ``AnswerError`` is about this one request, any other ends the run."""


class Backend(ABC):
    """A text model that answers conversations of plain strings.

    Attributes:
        name: of the model.
        at_once: how many conversations it likes to be given.

    """

    name: str
    at_once: int

    @abstractmethod
    def ask(self, conversations: Sequence[list[Message]], max_new_tokens: int) -> list[Reply]:
        """The reply to each, greedily."""


class ApiBackend(Backend):
    """A model behind an endpoint; options are those of ``sarsteer.ApiModel``."""

    def __init__(self, name: str, batch_size: int = 16, **options: Any) -> None:
        from sarsteer.models.api.model import ApiModel

        if batch_size < 1:
            raise JudgeError(f"batch_size must be at least 1, not {batch_size}")
        self.name = name
        self.at_once = batch_size
        self._model = ApiModel(name, **options)

    def ask(self, conversations: Sequence[list[Message]], max_new_tokens: int) -> list[Reply]:
        """All at once: the judge is given ``batch_size`` items at a time."""
        return list(self._model.generate_each(conversations, max_new_tokens, batch_size=self.at_once))


def open_backend(target: str, judge: str, **options: Any) -> Backend:
    """The model that ``target`` names: ``openai/...`` for an endpoint, else a folder or a name on the Hub.

    Raises:
        JudgeError: no model is named.

    """
    if not target:
        raise JudgeError(f"judge {judge!r} needs a model; write {judge}:FOLDER_OR_HUB_NAME or {judge}:openai/NAME")
    if target.startswith(API_PREFIX):
        return ApiBackend(target, **options)
    from sarsteer.judges.local import LocalBackend

    return LocalBackend(target, **options)


def unreadable(error: SarsteerError) -> Verdict:
    """The verdict where a model gave no reply to one request."""
    return Verdict(None, "", re.sub(r"conversation \d+: ", "", str(error)))
