"""What every model does, wherever it runs: it answers conversations. Only some show activations and can be steered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from sarsteer.errors import ModelError
from sarsteer.messages import Conversation

DEFAULT_BATCH = 16
API_PREFIX = "openai/"
"""What the names of models behind an API begin with."""


class LanguageModel(ABC):
    """Anything that answers conversations.

    Attributes:
        name: what messages, logs and artifacts call the model.
        steerable: whether it shows its activations; only such a model can be calibrated and steered.
        unsteerable_because: what ``check_steerable`` says of a model that is not, after its name.

    """

    name: str
    steerable: bool = False
    unsteerable_because: str = "shows no activations"

    @abstractmethod
    def generate(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int = 256,
        *,
        batch_size: int = DEFAULT_BATCH,
        **generation: Any,
    ) -> list[str]:
        """Answer each conversation, greedily unless ``do_sample=True``; answers are in the order of the conversations.

        Args:
            conversations: lists of messages.
            max_new_tokens: the longest answer, in tokens.
            batch_size: conversations at once.
            generation: further options; which ones there are depends on the kind of model.

        """

    @abstractmethod
    def stream(self, conversation: Conversation, max_new_tokens: int = 256, **generation: Any) -> Iterator[str]:
        """Answer one conversation piece by piece; the pieces joined are the answer."""

    def check_steerable(self) -> None:
        """Do nothing for a model that can be calibrated and steered; whatever needs activations calls this first.

        Raises:
            ModelError: the model shows no activations.

        """
        if not self.steerable:
            raise ModelError(f"{self.name} {self.unsteerable_because}: it can be defended by a prompt, not steered")
