"""The lines of the set, as written items."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from sarsteer.data.manifest import Item, load_items
from sarsteer.errors import ManifestError

NAME = "sarsteer-pairs"
VERSION = "1"
"""Increased when lines change."""

SPLITS = ("calibration", "tuning", "test")
"""Disjoint in topics: a topic is in one split, in all groups."""

GROUPS = ("harmful", "twin", "contrast", "borderline", "everyday", "other")
"""``harmful`` requests and their safe ``twin``; ``borderline`` requests, which are safe and sound dangerous, and their
unsafe ``contrast``; ``everyday`` requests; ``other`` speech that is not a request."""

FOLDER = Path(__file__).parent
_GROUP = {  # by file and label
    ("pairs", "harmful"): "harmful",
    ("pairs", "safe"): "twin",
    ("borderline", "harmful"): "contrast",
    ("borderline", "safe"): "borderline",
    ("everyday", "safe"): "everyday",
    ("other", "safe"): "other",
}


@lru_cache(maxsize=1)
def all_lines() -> tuple[Item, ...]:
    """Every line, in an order that mixes topics and groups, so that the first lines of any selection are a sample.

    The two lines of a pair follow each other.
    """
    items: list[Item] = []
    for file in dict.fromkeys(file for file, _ in _GROUP):
        for item in load_items(FOLDER / f"{file}.jsonl", modality="text"):
            extra = {"set": f"{NAME} {VERSION}", "group": _GROUP[file, item.label], **item.extra}
            items.append(replace(item, extra=extra))
    return tuple(sorted(items, key=lambda item: (digest_of(item.pair or item.id), item.label)))


def lines(split: str, groups: tuple[str, ...]) -> list[Item]:
    """The written items of a split and some groups.

    Raises:
        ManifestError: there is no such split or group.

    """
    if split not in SPLITS:
        raise ManifestError(f"has no split {split!r}; use one of {', '.join(SPLITS)}", place=NAME)
    for group in groups:
        if group not in GROUPS:
            raise ManifestError(f"has no group {group!r}; use one of {', '.join(GROUPS)}", place=NAME)
    return [item for item in all_lines() if item.extra["split"] == split and item.extra["group"] in groups]


def digest_of(name: str) -> bytes:
    """The digest by which lines are ordered, and given their voices."""
    return hashlib.sha256(f"{NAME} {name}".encode()).digest()
