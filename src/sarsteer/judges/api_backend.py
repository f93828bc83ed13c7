"""A judge's model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sarsteer.judges.backend import Backend, Reply
from sarsteer.messages import Message
from sarsteer.models.api.model import ApiModel


class ApiBackend(Backend):
    """A model behind an endpoint.

    Args:
        name: such as ``"openai/gpt-x"``.
        batch_size: requests in flight.
        options: of ``ApiModel``.

    """

    def __init__(self, name: str, batch_size: int = 16, **options: Any) -> None:
        self._batch_size = batch_size
        self._model = ApiModel(name, **options)

    def ask(self, conversations: Sequence[list[Message]], max_new_tokens: int) -> list[Reply]:
        """The reply to each conversation."""
        return list(self._model.generate_each(conversations, max_new_tokens, batch_size=self._batch_size))
