"""What every defence is: a name, settings for the log, and what it adds to prompt, activations or answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.prompt import NO_DEFENSE, PromptDefense

if TYPE_CHECKING:
    import torch

    from sarsteer.defenses.guard import RequestGuard
    from sarsteer.steering.gate.gate import Gate


@dataclass(frozen=True, eq=False)
class Defense:
    """One way to make a model refuse, ready to be applied.

    Attributes:
        name: its spec, as the command line gives it; unique within a run.
        settings: all that shapes its answers, as JSON.
        prompt: text around the user's own.
        vectors: ``[L, D]`` added to the activations, times ``alpha``; None where nothing is added.
        alpha: the steering strength.
        gate: decides on the request's activations whether they are steered; None where they always are.
        guard: decides on the model's own transcription whether it may answer.
        steering: digest of the steering file, where there is one.

    """

    name: str
    settings: Mapping[str, Any]
    prompt: PromptDefense = NO_DEFENSE
    vectors: torch.Tensor | None = field(default=None, repr=False)
    alpha: float = 0.0
    gate: Gate | None = field(default=None, repr=False)
    guard: RequestGuard | None = field(default=None, repr=False)
    steering: str | None = None

    @property
    def key(self) -> str:
        """Equal for defences that do the same: their requests can share a batch."""
        return json.dumps(self.settings, sort_keys=True)


UNDEFENDED = Defense("none", {"kind": "none"})
