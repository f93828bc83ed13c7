"""One checked and tokenized conversation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sarsteer.messages import Message
from sarsteer.models.batching import Inputs


@dataclass(frozen=True)
class Prompt:
    """A conversation, ready for ``generate`` and ``last_token_activations``.

    Attributes:
        messages: the conversation with its media loaded.
        input_ids: ``[T]``.
        inputs: the processor's tensors of this row, if the model's forward encodes its media.
        clips: one ``[tokens, D]`` embedding per clip, if the family encodes clips once.

    A prompt without ``inputs`` consists of tokens and embeddings: the encoder does not run with it again.

    """

    messages: list[Message] = field(repr=False)
    input_ids: torch.Tensor = field(repr=False)
    inputs: Inputs = field(default_factory=dict, repr=False)
    clips: tuple[torch.Tensor, ...] = field(default=(), repr=False)
