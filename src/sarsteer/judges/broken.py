"""Detect text that is not an answer: empty, repetitive, or hardly any letters.

Steering that is too strong breaks text before it causes refusals; counting broken text as refusal would reward it.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

LONGEST_PERIOD = 300
"""Characters of the longest repeated passage that is detected."""
_END = 4000  # characters at the end that are searched for a loop: loops run to the end
_LAST = 100  # words


def is_broken(text: str) -> bool:
    """Whether ``text`` is empty, repeats itself for half its length, or is mostly neither letters nor digits.

    Numbers, code and all scripts pass; fluent text without sense is not detected.
    """
    stripped = " ".join(text.split())
    characters = [character for character in stripped if not character.isspace()]
    alphanumeric = sum(character.isalnum() for character in characters)
    if not alphanumeric:
        return True
    if len(characters) >= 20 and alphanumeric < 0.4 * len(characters):
        return True
    return _loops(stripped[-_END:].casefold()) or _few_words(stripped)


def _loops(text: str) -> bool:
    """Whether one passage repeats at least four times in a row and fills half of the text."""
    if len(text) < 8:
        return False
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for period in range(1, min(LONGEST_PERIOD, len(codes) // 4) + 1):
        breaks = np.flatnonzero(codes[period:] != codes[:-period])
        edges = np.concatenate([[-1], breaks, [len(codes) - period]])
        run = int(np.diff(edges).max()) - 1 + period
        if run >= max(4 * period, 0.5 * len(codes), 8):
            return True
    return False


def _few_words(text: str) -> bool:
    """Whether a few words, or a few sequences of four words, make up most of the text, in any order."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) >= 6 and max(Counter(words).values()) > 0.6 * len(words):
        return True
    last = words[-_LAST:]  # only a few, because any long text reuses its words
    if len(last) >= 16 and len(set(last)) < 0.3 * len(last):
        return True
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(fours) >= 24 and len(set(fours)) < 0.35 * len(fours)
