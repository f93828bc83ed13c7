"""What every model does, wherever it runs: it answers conversations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from sarsteer.errors import ModelError
from sarsteer.messages import Conversation

DEFAULT_BATCH = 16
API_PREFIX = "openai/"
"""Prefix of the names of models behind an API."""


class LanguageModel(ABC):
    """A model that answers conversations.

    Attributes:
        name: what messages, logs and artifacts call the model.
        steerable: whether its activations are available; only then can it be calibrated and steered.
        unsteerable_because: why it is not steerable, for messages: a clause after the model's name.

    """

    name: str
    steerable: bool = False
    unsteerable_because: str = "gives no access to its activations"

    @abstractmethod
    def generate(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int = 256,
        *,
        batch_size: int = DEFAULT_BATCH,
        **generation: Any,
    ) -> list[str]:
        """Answer each conversation, greedily unless ``do_sample=True``; answers have the order of the conversations.

        Args:
            conversations: lists of messages.
            max_new_tokens: the longest answer, in tokens.
            batch_size: conversations at once.
            generation: further options, which depend on the kind of model.

        """

    @abstractmethod
    def stream(self, conversation: Conversation, max_new_tokens: int = 256, **generation: Any) -> Iterator[str]:
        """Answer one conversation piece by piece; the pieces joined are the answer."""

    def check_steerable(self) -> None:
        """Raise ``ModelError`` if the model cannot be calibrated and steered."""
        if not self.steerable:
            raise ModelError(f"{self.name} {self.unsteerable_because}: it can be defended by a prompt, not steered")
