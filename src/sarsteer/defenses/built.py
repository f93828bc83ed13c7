"""A defense that is ready to be applied: what it changes in the prompt, the activations and the answer."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.rewrite import NO_REWRITE, PromptRewrite

if TYPE_CHECKING:
    from sarsteer.defenses.request_guard import RequestGuard
    from sarsteer.steering.strength import ResolvedStrength


@dataclass(frozen=True, eq=False)
class BuiltDefense:
    """A defense prepared for one model.

    Attributes:
        settings: everything that shapes its answers, as JSON. A run resumes only with equal settings.
        prompt: text around the user's.
        strength: what is added to the activations; None if nothing is.
        guard: reads the model's transcript of a request and decides whether the request is answered.
        steering: digest of the steering file, if one is used.

    """

    settings: Mapping[str, Any]
    prompt: PromptRewrite = NO_REWRITE
    strength: ResolvedStrength | None = field(default=None, repr=False)
    guard: RequestGuard | None = field(default=None, repr=False)
    steering: str | None = None

    @property
    def key(self) -> str:
        """The settings as text; equal for equal settings, in any process."""
        return json.dumps(self.settings, sort_keys=True)

    @cached_property
    def batch_key(self) -> Hashable:
        """Equal only for defenses that do the same, whatever their settings say: their requests can share a batch."""
        strength = None if self.strength is None else (self.strength.digest, self.strength.alpha)
        return self.key, self.prompt, strength, None if self.guard is None else self.guard.signature


UNDEFENDED = BuiltDefense({"kind": "none"})
