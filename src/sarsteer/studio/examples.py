"""Example clips to begin with, copied into the folder that visitors' files lie in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sarsteer import tiny
from sarsteer.data import sarsteer_pairs
from sarsteer.data.manifest import Item, load_items
from sarsteer.data.pairs import load_pairs
from sarsteer.errors import SarsteerError

PAIRS = 3
"""Pairs of the built-in sets."""
MOST = 12
"""Examples of a manifest."""


@dataclass(frozen=True)
class Example:
    """A clip with what is said in it."""

    label: str
    path: str


def example_items(model: str, manifest: Path | None) -> list[Item]:
    """The items of ``manifest``; by default pairs of the built-in set that fits the model, or none.

    Raises:
        ManifestError: the manifest is invalid.

    """
    if manifest is not None:
        return [item for item in load_items(manifest) if item.modality == "audio"][:MOST]
    try:
        name = tiny.NAME if model == tiny.NAME else sarsteer_pairs.NAME
        pairs = load_pairs(name, "test", limit=PAIRS)
    except SarsteerError:  # the pairs are spoken on first use, which needs the extra tts
        return []
    return [item for pair in pairs for item in (pair.harmful, pair.safe)]


def copy_examples(items: Sequence[Item], folder: Path) -> list[Example]:
    """Copies of the clips in ``folder``."""
    examples = []
    for number, item in enumerate(items):
        place = folder / f"example-{number}"
        place.mkdir(parents=True, exist_ok=True)
        copy = Path(shutil.copy(item.audio, place / item.audio.name))
        examples.append(Example(f"{item.question or item.id} ({item.label})", str(copy)))
    return examples
