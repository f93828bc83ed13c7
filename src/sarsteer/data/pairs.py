"""Pairs of a harmful request and its safe twin, with the same topic and similar wording."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from sarsteer import tiny
from sarsteer.data import sarsteer_pairs
from sarsteer.data.benchmarks.load import load_benchmark
from sarsteer.data.benchmarks.registry import names_benchmark
from sarsteer.data.manifest import Item, load_items
from sarsteer.errors import ManifestError, did_you_mean

SPLITS = ("calibration", "test")
PAIRED = ("harmful", "twin", "contrast", "borderline")
"""Groups of ``sarsteer-pairs`` that are pairs; the others are benign requests without a twin."""
BENIGN = ("everyday", "other")


@dataclass(frozen=True)
class Pair:
    """A harmful request and its harmless counterpart."""

    id: str
    harmful: Item
    safe: Item


class Pairs(Sequence[Pair]):
    """Pairs, in the order of their manifest."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = tuple(pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Pair | Pairs:
        return Pairs(self._pairs[index]) if isinstance(index, slice) else self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __repr__(self) -> str:
        return f"Pairs({len(self)} pairs)"

    @property
    def harmful(self) -> list[Item]:
        """The harmful requests, in order."""
        return [pair.harmful for pair in self._pairs]

    @property
    def safe(self) -> list[Item]:
        """The safe twins, in order."""
        return [pair.safe for pair in self._pairs]

    @property
    def digest(self) -> str:
        """SHA-256 of the requests and labels: equal for the same pairs in the same order."""
        return digest_of_items([item for pair in self._pairs for item in (pair.harmful, pair.safe)])


def digest_of_items(items: Sequence[Item]) -> str:
    """SHA-256 of requests and labels, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.label}\0".encode())
        digest.update(item.content_digest)
    return digest.hexdigest()


def load_pairs(
    name_or_manifest: str | os.PathLike[str],
    split: str = "calibration",
    *,
    voices: Sequence[str] | None = None,
    audio_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> Pairs:
    """Load pairs.

    Args:
        name_or_manifest: ``"sarsteer-pairs"`` for our calibration set, spoken on first use; ``"sarsteer-tiny"`` for the
            embedded clips; a manifest; a folder that contains ``calibration.jsonl`` and ``test.jsonl``; or a benchmark
            with safe twins and its folder, such as ``"figstep@train:FOLDER"``.
        split: ``"calibration"`` or ``"test"``, and ``"tuning"`` of ``sarsteer-pairs``; a single manifest and a
            benchmark give every pair.
        voices: who speaks ``sarsteer-pairs``; see ``load_sarsteer_pairs``.
        audio_root: the folder that a manifest's paths are relative to, and that contains all clips; by default the
            manifest's own.
        limit: only the first pairs.

    Raises:
        ManifestError: the manifest is invalid, or a clip has no twin.
        BenchmarkError: the benchmark is missing, or not in its format.
        SpeechError: a voice is missing.

    """
    name = os.fspath(name_or_manifest)
    if name == sarsteer_pairs.NAME:
        count = None if limit is None else 2 * limit
        return pair_up(sarsteer_pairs.load_sarsteer_pairs(split, PAIRED, voices=voices, limit=count), name)
    check_voices(name, voices)
    if split not in SPLITS:
        raise ManifestError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    if ":" in name and not Path(name).exists() and names_benchmark(name):
        return pair_up(load_benchmark(name).items, name)[:limit]
    manifest = manifest_path(name, split)
    if not manifest.exists() and not Path(name).exists():
        if names_benchmark(name):
            raise ManifestError(f"is a benchmark; give its folder, too: {name}:FOLDER", place=name)
        hint = did_you_mean(name, (sarsteer_pairs.NAME, tiny.NAME))
        raise ManifestError(f"no such manifest; check the path{hint}", place=name)
    return pair_up(load_items(manifest, audio_root=audio_root), str(manifest))[:limit]


def load_benign(
    name_or_manifest: str | os.PathLike[str],
    split: str = "calibration",
    *,
    voices: Sequence[str] | None = None,
    audio_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> list[Item]:
    """Load safe requests that have no harmful twin, for the gate.

    Args:
        name_or_manifest: ``"sarsteer-pairs"`` for its everyday requests and other speech; a manifest; a folder that
            contains ``calibration.jsonl`` and ``test.jsonl``; or a benchmark, such as ``"xstest_spoken:FOLDER"``.
        split: as in ``load_pairs``.
        voices: as in ``load_pairs``.
        audio_root: as in ``load_pairs``.
        limit: only the first requests.

    Raises:
        ManifestError: the manifest is invalid, or contains a harmful item.
        BenchmarkError: the benchmark is missing, or not in its format.
        SpeechError: a voice is missing.

    """
    name = os.fspath(name_or_manifest)
    if name == sarsteer_pairs.NAME:
        return sarsteer_pairs.load_sarsteer_pairs(split, BENIGN, voices=voices, limit=limit)
    check_voices(name, voices)
    if ":" in name and not Path(name).exists() and names_benchmark(name):
        items = list(load_benchmark(name, limit=limit).items)
    else:
        items = load_items(manifest_path(name, split), audio_root=audio_root)[:limit]
    for item in items:
        if item.harmful:
            raise ManifestError(
                f"item {item.id!r} is harmful; benign requests must be safe, harmful ones belong to the pairs",
                place=name,
            )
    return items


def check_voices(name: str, voices: Sequence[str] | None) -> None:
    """Refuse voices for clips that exist already.

    Raises:
        ManifestError: voices are given.

    """
    if voices is not None:
        raise ManifestError(f"its clips exist already; only {sarsteer_pairs.NAME} is spoken in voices", place=name)


def manifest_path(name_or_manifest: str | os.PathLike[str], split: str) -> Path:
    """The manifest of a split: the embedded clips', a folder's, or the file itself."""
    path = Path(name_or_manifest)
    if os.fspath(name_or_manifest) == tiny.NAME:
        return tiny.clips_manifest(split)
    return path / f"{split}.jsonl" if path.is_dir() else path


def pair_up(items: Sequence[Item], source: str) -> Pairs:
    """Join each harmful item with the safe item of the same ``pair``.

    Raises:
        ManifestError: an item has no pair, no twin, or more than one.

    """
    groups: dict[str, dict[str, Item]] = {}
    for item in items:
        if item.pair is None:
            raise ManifestError(f"item {item.id!r} has no 'pair'; add the name of its pair", place=source)
        group = groups.setdefault(item.pair, {})
        if item.label in group:
            raise ManifestError(
                f"pair {item.pair!r} has two {item.label} items ({group[item.label].id!r}, {item.id!r}); "
                "give each pair one harmful and one safe item",
                place=source,
            )
        group[item.label] = item
    pairs = []
    for name, group in groups.items():
        for label, twin in (("harmful", "safe"), ("safe", "harmful")):
            if label in group and twin not in group:
                raise ManifestError(
                    f"{label} item {group[label].id!r} has no {twin} twin in pair {name!r}; add one", place=source
                )
        pairs.append(Pair(name, group["harmful"], group["safe"]))
    return Pairs(pairs)
