"""Which items are the same request: in several voices, say, or as a copy under another name.

Such items are not independent. What is fitted on one of them has seen the others, so they are held out together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from sarsteer.data.manifest import Item
from sarsteer.data.text import normalize


def request_numbers(units: Sequence[Sequence[Item]]) -> tuple[int, ...]:
    """The number of each unit's request; units are a pair's two items, or one item.

    Units have the same number if they share a question (without case, punctuation and spaces), a pair name, or a file's
    bytes, directly or through other units. Numbers start at 0, in order of first appearance.
    """
    parent = list(range(len(units)))

    def root(unit: int) -> int:
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    first: dict[Hashable, int] = {}
    for number, items in enumerate(units):
        for item in items:
            for key in _keys(item):
                parent[root(number)] = root(first.setdefault(key, number))
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(root(unit), len(numbers)) for unit in range(len(units)))


def _keys(item: Item) -> Iterator[Hashable]:
    if text := normalize(item.question):  # questions without a letter or digit are not compared
        yield "question", text
    if item.pair is not None:
        yield "pair", item.pair
    yield "content", item.content_digest
