"""Compare requests regardless of case, punctuation and spaces."""

from __future__ import annotations

import unicodedata


def normalize(text: str) -> str:
    """Only letters and digits, without case: equal for ``"How  do I…?"`` and ``"how do I"``. May be empty.

    Repeated until nothing changes, because characters around a removed mark can compose.
    """
    before = None
    while text != before:
        before = text
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = "".join(c for c in folded if unicodedata.category(c)[0] in "LMN")
    return text


def words(text: str) -> list[str]:
    """The normalized words, without those that contain neither letter nor digit."""
    return [word for word in map(normalize, text.split()) if word]


def word_similarity(a: str, b: str) -> float:
    """1 minus the word edits (insertions, deletions, replacements) between the texts over the longer text's words."""
    first, second = words(a), words(b)
    if not first and not second:
        return 1.0
    row = list(range(len(second) + 1))
    for i, word in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return 1 - row[-1] / max(len(first), len(second))
