"""Responses in OpenAI's shape: whole ones, and the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sarsteer.server.job import Finished

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Completion:
    """What all parts of one response share.

    Attributes:
        model: the name of the served model.
        system_fingerprint: identifies weights and steering.
        id: of the response.
        created: when, in seconds.

    """

    model: str
    system_fingerprint: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(
        self, answers: Sequence[Finished], prompt_tokens: int, decision: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The response of a request without ``stream``."""
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None,
                "finish_reason": answer.reason,
            }
            for answer in sorted(answers, key=lambda one: one.index)
        ]
        body = {**self._head("chat.completion"), "choices": choices, "usage": usage(prompt_tokens, answers)}
        return body if decision is None else {**body, "sarsteer": dict(decision)}

    def chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        reason: str | None = None,
        decision: Mapping[str, Any] | None = None,
    ) -> bytes:
        """One event of a stream."""
        choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": reason}
        body = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return event(body if decision is None else {**body, "sarsteer": dict(decision)})

    def usage_chunk(self, prompt_tokens: int, answers: Sequence[Finished]) -> bytes:
        """The event with the number of tokens, after all others."""
        body = {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(prompt_tokens, answers)}
        return event(body)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }


def usage(prompt_tokens: int, answers: Sequence[Finished]) -> dict[str, int]:
    """Token counts; the token that ends an answer counts."""
    completion = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
    }


def event(body: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
