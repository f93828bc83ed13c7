"""Noised copies of a request, which the gate must judge alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sarsteer.noise import noised

if TYPE_CHECKING:
    from sarsteer.messages import Conversation, Message
    from sarsteer.steering.strength import ResolvedStrength

RATE = 16_000
"""Sampling rate of the copies, in Hz: that of every supported audio encoder."""


@dataclass(frozen=True)
class NoisedCopies:
    """How many copies of each request the gate also judges, and how noisy they are.

    Attributes:
        count: number of copies.
        snr: of the speech to the noise, in dB.
        opened: what a request is steered by if the gate opens for a copy; it has no gate itself.

    """

    count: int
    snr: float
    opened: ResolvedStrength = field(repr=False, compare=False)

    def of(self, conversation: Conversation) -> list[list[Message]]:
        """The copies: the same messages, with noise in every clip.

        The noise depends only on the clip and the number of the copy, so that a resumed run gives the same answers.

        Raises:
            MessageError, AudioError: the conversation is malformed, or a clip is invalid.

        """
        from sarsteer.messages import InputLimits, read_conversation
        from sarsteer.modalities import kinds

        messages, clips = read_conversation(conversation, InputLimits(rate=RATE, kinds=frozenset(kinds())))
        copies: list[list[Message]] = []
        for number in range(self.count):
            left = iter(clips)

            def part(one: Mapping[str, Any], number: int = number, left: Any = left) -> dict[str, Any]:
                if one["type"] != "audio":
                    return dict(one)
                clip = next(left)
                seed = hashlib.sha256(f"{number}\0{clip.digest}".encode()).digest()
                rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
                return {"type": "audio", "audio": noised(clip, self.snr, rng).samples, "sampling_rate": RATE}

            copies.append([{**message, "content": [part(p) for p in message["content"]]} for message in messages])
        return copies
