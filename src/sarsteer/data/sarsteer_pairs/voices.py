"""Which voice speaks a line."""

from __future__ import annotations

from collections.abc import Sequence

from sarsteer.data.manifest import Item
from sarsteer.data.sarsteer_pairs.texts import NAME, digest_of
from sarsteer.errors import SpeechError
from sarsteer.tts.clips import Turn
from sarsteer.tts.speaker import Speaker

VOICES = ("en-us", "en-us+f1", "en-us+f2", "en-us+f3", "en-us+m1", "en-us+m3", "en", "en-gb-scotland")
"""The default: eight English voices of eSpeak NG."""


def speakers(voices: Sequence[str] | None) -> tuple[Speaker, ...]:
    """The speakers that ``voices`` name, ``[ENGINE:]VOICE`` each; ``VOICES`` by default.

    Raises:
        SpeechError: a voice is missing or named twice, or none is named.
        MissingExtraError: eSpeak NG is not installed.

    """
    named = VOICES if voices is None else tuple(voices)
    if not named:
        raise SpeechError("no voice is named; name at least one, or leave the voices out", place=NAME)
    if len(set(named)) < len(named):
        twice = next(voice for voice in named if named.count(voice) > 1)
        raise SpeechError(f"names the voice {twice!r} twice; name each once", place=NAME)
    return tuple(Speaker.parse(voice) for voice in named)


def turns_of(item: Item, choice: Sequence[Speaker]) -> list[Turn]:
    """Who says what in a line: the same voice for both lines of a pair, two voices for a line of two speakers.

    The voice is chosen by a digest of the pair's id, so that it does not depend on the other lines.
    """
    first = int.from_bytes(digest_of(item.pair or item.id)[-4:], "big")
    texts = item.extra.get("turns") or [item.question]
    return [(choice[(first + number) % len(choice)], text) for number, text in enumerate(texts)]
