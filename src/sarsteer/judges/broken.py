"""Tell text that is no answer at all: empty, one thing over and over, or hardly any letters.

Steering that is too strong breaks text before it makes it refuse; to count that as refusal would reward it.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

LONGEST_PERIOD = 300
"""Characters of the longest passage whose repetition is looked for."""
_END = 4000  # characters in which a loop is looked for: loops run to the end
_NEWEST = 100  # words


def is_broken(text: str) -> bool:
    """Whether ``text`` is empty, repeats itself for half its length, or is mostly neither letters nor digits.

    Numbers, code and scripts of all languages are letters enough; a fluent text that makes no sense is not noticed.
    """
    stripped = " ".join(text.split())
    signs = [sign for sign in stripped if not sign.isspace()]
    meaningful = sum(sign.isalnum() for sign in signs)
    if not meaningful:
        return True
    if len(signs) >= 20 and meaningful < 0.4 * len(signs):
        return True
    return _loops(stripped[-_END:].casefold()) or _few_words(stripped)


def _loops(text: str) -> bool:
    """Whether one passage, of whatever length, comes four times in a row and fills half of the text."""
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
    """Whether the same few words, or the same runs of four, come again and again, if not in strict turn."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) >= 6 and max(Counter(words).values()) > 0.6 * len(words):
        return True
    newest = words[-_NEWEST:]  # a long text uses its words again and again, a hundred of them do not
    if len(newest) >= 16 and len(set(newest)) < 0.3 * len(newest):
        return True
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(fours) >= 24 and len(set(fours)) < 0.35 * len(fours)
