"""A defense that is ready to be applied: what it changes in the prompt, the activations and the answer."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.rewrite import NO_REWRITE, PromptRewrite

if TYPE_CHECKING:
    import torch

    from sarsteer.defenses.noised_copies import NoisedCopies
    from sarsteer.defenses.request_guard import RequestGuard
    from sarsteer.steering.per_request import PerRequestSteering
    from sarsteer.steering.strength import ResolvedStrength


@dataclass(frozen=True, eq=False)
class BuiltDefense:
    """A defense prepared for one model.

    Attributes:
        settings: everything that shapes its answers, as JSON. A run resumes only with equal settings.
        prompt: text around the user's.
        strength: what is added to the activations; None if nothing is.
        per_request: vectors whose factors depend on the request, instead of ``strength``.
        copies: noised copies of each request that ``strength``'s gate also judges.
        guard: reads the model's transcript of a request and decides whether the request is answered.
        refusal: text that answers requests that open the gate or that the guard stops. Without one, the first get the
            model's own steered words, the second a fixed text.
        steering: digest of the steering file, if one is used.
        pool: if not empty, each request is answered under one of these instead, see ``member_for``.
        secret: a key for the draw from the pool; without one, anybody can compute it.
        details: what a log records about each answer under it.

    """

    settings: Mapping[str, Any]
    prompt: PromptRewrite = NO_REWRITE
    strength: ResolvedStrength | None = field(default=None, repr=False)
    per_request: PerRequestSteering | None = field(default=None, repr=False)
    guard: RequestGuard | None = field(default=None, repr=False)
    copies: NoisedCopies | None = None
    refusal: str | None = None
    steering: str | None = None
    pool: tuple[BuiltDefense, ...] = field(default=(), repr=False)
    details: Mapping[str, Any] = field(default_factory=dict)
    secret: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        own = (self.strength, self.per_request, self.guard, self.copies)
        if self.pool and (any(part is not None for part in own) or self.prompt is not NO_REWRITE):
            raise ValueError("a pooled defense changes nothing itself; put everything into its members")
        if self.strength is not None and self.per_request is not None:
            raise ValueError("a defense adds either a strength or vectors per request")
        if self.copies is not None and (self.strength is None or self.strength.gate is None or self.guard is not None):
            raise ValueError("noised copies are judged by the gate of a strength, without a guard")
        if any(member.pool for member in self.pool):
            raise ValueError("a member of a pool cannot be a pool")

    def member_for(self, conversation: Any) -> BuiltDefense:
        """The member of the pool that answers ``conversation``, by a digest of its content; itself without a pool.

        A request meets the same member in any batch, order and process, so that a resumed run gives the same answers.
        With a secret, the digest is keyed, and of the samples of its clips instead of their paths; a prepared prompt
        can then meet another member than its conversation.

        Args:
            conversation: messages, or a prepared ``Prompt``.

        """
        if not self.pool:
            return self
        digest = _digest(conversation) if self.secret is None else _keyed_digest(self.secret, conversation)
        return self.pool[int.from_bytes(digest[:8], "big") % len(self.pool)]

    @property
    def members(self) -> tuple[BuiltDefense, ...]:
        """Those that a request can be answered under: the pool, or only itself."""
        return self.pool or (self,)

    @property
    def alpha(self) -> float | None:
        """The steering strength α; None if nothing is added to the activations."""
        one = self.pool[0] if self.pool else self
        added = one.strength or one.per_request
        return None if added is None else added.alpha

    @property
    def vectors(self) -> torch.Tensor:
        """The vectors ``[L, D]`` that are added, α not included.

        Raises:
            ValueError: nothing is added, or it differs between the members of a pool.

        """
        added = self.strength or self.per_request
        if added is None:
            raise ValueError("this defense adds no vectors of its own")
        return added.vectors

    @property
    def key(self) -> str:
        """The settings as text; equal for equal settings, in any process."""
        return json.dumps(self.settings, sort_keys=True)

    @cached_property
    def batch_key(self) -> Hashable:
        """Equal only for defenses that do the same, whatever their settings say: their requests can share a batch."""
        added = self.strength or self.per_request
        strength = None if added is None else (added.digest, added.alpha)
        return self.key, self.prompt, strength, self.refusal, None if self.guard is None else self.guard.signature


RATE = 16_000
"""Sampling rate at which clips are compared, in Hz: that of every supported audio encoder."""
UNDEFENDED = BuiltDefense({"kind": "none"})


def _digest(conversation: Any) -> bytes:
    """A digest of the roles, texts and media of a conversation, or of a prepared ``Prompt``'s."""
    messages = getattr(conversation, "messages", conversation)
    return hashlib.sha256(json.dumps(messages, sort_keys=True, default=_media).encode()).digest()


def _keyed_digest(secret: bytes, conversation: Any) -> bytes:
    """A digest of the texts and of the samples, that only who knows ``secret`` can compute.

    A conversation that cannot be read has one, too: answering it gives the error.
    """
    from sarsteer.errors import AudioError, MessageError
    from sarsteer.messages import InputLimits, read_conversation
    from sarsteer.modalities import kinds

    try:
        read, clips = read_conversation(conversation, InputLimits(rate=RATE, kinds=frozenset(kinds())))
        words = [[message["role"], [part.get("text") for part in message["content"]]] for message in read]
        content = json.dumps([words, [clip.digest for clip in clips]]).encode()
    except (AudioError, MessageError):
        content = _digest(conversation)
    return hmac.digest(secret, content, "sha256")


def _media(value: Any) -> str:
    """A value that JSON lacks, as text: samples and bytes by their digest, a path as it is."""
    import numpy as np

    content = getattr(value, "samples", value)
    if not isinstance(content, str | bytes | bytearray):
        content = np.asarray(content).tobytes() if hasattr(content, "__array__") else str(content).encode()
    return hashlib.sha256(content if isinstance(content, bytes | bytearray) else content.encode()).hexdigest()
