"""``ActivationSource``: what calibration needs from a model. Each engine implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from sarsteer.messages import Conversation
from sarsteer.models.fingerprint import Fingerprint


class ActivationSource(Protocol):
    """A model that returns the residual stream at the last prompt token.

    ``AudioLanguageModel`` (transformers) and ``VllmActivationSource`` (vLLM workers) implement it.

    Attributes:
        name: what messages and artifacts call the model.
        revision: of the checkpoint, for the record.
        origin: what the checkpoint says that it was made from, for the record.

    """

    name: str
    revision: str | None
    origin: dict[str, Any] | None

    @property
    def family_name(self) -> str:
        """Name of the model's family."""
        ...

    @property
    def layer_count(self) -> int:
        """Number of decoder layers, L."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream, D."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """Identifies the weights."""
        ...

    @property
    def steered(self) -> bool:
        """Whether steering is attached: calibration refuses such a model."""
        ...

    def check_steerable(self) -> None:
        """Raise ``ModelError`` if the model cannot be calibrated and steered."""
        ...

    def prepare(self, conversations: Sequence[Conversation], *, remember: bool = True) -> list[Any]:
        """Check conversations, and tokenize them. A bad one raises an error whose ``index`` is its position."""
        ...

    def last_token_activations(self, prompts: Sequence[Any], *, batch_size: int = 16) -> torch.Tensor:
        """``[B, L, D]`` in float32 on the CPU: the output of each decoder layer at the last prompt token."""
        ...

    def paired_activations(
        self, plain: Sequence[Conversation], prompted: Sequence[Conversation]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations of two arms that differ in how their prompts end, each ``[B, L, D]``.

        An engine computes the prefix that ``plain[i]`` and ``prompted[i]`` share once where it can.
        """
        ...
