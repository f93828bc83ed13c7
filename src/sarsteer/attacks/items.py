"""Attacked items: the same request with another clip, text or turns before it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sarsteer.audio import Clip
from sarsteer.data.manifest import Item
from sarsteer.files import atomic_path

VARIANT = "#"
"""Between an item's id and the number of its variant."""


def with_clip(item: Item, path: Path, **extra: Any) -> Item:
    """``item`` with an altered clip; its clean clip, unless it was altered before, is the one that it had."""
    clean = {} if {"clean", "said"} & item.extra.keys() else {"clean": str(item.audio)}
    return replace(item, media=path, extra={**item.extra, **clean, **extra})


def variant_of(item: Item, number: int) -> Item:
    """``item`` as one of several variants, numbered from 1 in the order in which the attacker would try them.

    Variants of one item are one cluster: intervals count the item once.
    """
    cluster = item.extra.get("cluster") or item.id
    return replace(item, id=f"{item.id}{VARIANT}{number}", extra={**item.extra, "cluster": cluster})


def variant_number(name: str) -> tuple[str, int]:
    """The id of the attacked item and the number of the variant; 1 for an item without variants."""
    before, mark, number = name.rpartition(VARIANT)
    return (before, int(number)) if mark and number.isdigit() else (name, 1)


def clip_path(folder: Path, item: Item, suffix: str = "") -> Path:
    """Where an attack stores its version of an item's clip; another clip or another id has another path."""
    digest = hashlib.sha256(item.id.encode() + b"\0" + item.content_digest).hexdigest()[:20]
    return folder / f"{digest}{suffix}.wav"


def write_clip(path: Path, clip: Clip, *, exact: bool = False) -> None:
    """Write a WAV file, atomically. Samples outside [-1, 1] are cut off, as a sound card does.

    Args:
        path: the file.
        clip: what to write.
        exact: 32-bit floats instead of 16-bit integers, for changes that are smaller than 1/32768.

    """
    import soundfile

    samples = np.clip(clip.samples, -1.0, 1.0)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, clip.rate, format="WAV", subtype="FLOAT" if exact else "PCM_16")
