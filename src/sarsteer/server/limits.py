"""What one server accepts. Every limit has a default, and none can be raised by a client."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        batch: answers that are generated at once.
        queue: requests that wait, those whose body is being received included; more get HTTP 429.
        choices: the largest ``n`` of a request.
        tokens: the longest answer, in tokens, and the default of ``max_tokens``.
        temperature: the highest temperature.
        body_bytes: the largest request body.
        body_seconds: time to receive a body.
        clip_seconds: the longest clip. A model's own window may be shorter.
        clips: clips and images in one request.
        samples: decoded samples of one clip, all channels; bounds what a small compressed file can become.
        messages: messages in one request.
        text_chars: characters of text in one request.
        send_seconds: how long a client may leave a part of its answer unread.

    """

    batch: int = 16
    queue: int = 64
    choices: int = 8
    tokens: int = 512
    temperature: float = 1.0
    body_bytes: int = 16 * MIB
    body_seconds: float = 30.0
    clip_seconds: float = 120.0
    clips: int = 16
    samples: int = 32_000_000
    messages: int = 128
    text_chars: int = 100_000
    send_seconds: float = 60.0
