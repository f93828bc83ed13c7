"""What runs a judge's text model: an interface, with one implementation for endpoints and one for transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from sarsteer.errors import SarsteerError
from sarsteer.messages import Message

Reply = str | SarsteerError
"""A model's reply, or why there is none: an ``AnswerError`` concerns one request, any other error ends the run."""


class Backend(ABC):
    """A text model that answers conversations of plain strings."""

    @abstractmethod
    def ask(self, conversations: Sequence[list[Message]], max_new_tokens: int) -> list[Reply]:
        """The reply to each conversation, decoded greedily."""
