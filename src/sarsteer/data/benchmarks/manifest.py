"""A manifest of the user's as a benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.manifest import Item, load_items
from sarsteer.errors import BenchmarkError


@dataclass(frozen=True)
class Manifest(Benchmark):
    """A manifest (JSON Lines), or a folder that contains ``test.jsonl`` and ``calibration.jsonl``.

    Attributes:
        audio_root: see ``load_items``.

    """

    name = "manifest"
    title = "A manifest"
    source = "your folder"
    license = "yours"
    variants = (Variant("manifest", ("test", "calibration")),)
    audio_root: Path | None = None

    def find_folder(self, folder: Path | None, variant: str, revision: str | None) -> Path:
        """The manifest, or its folder."""
        if folder is None:
            raise BenchmarkError("names no file; write manifest:FILE")
        return folder if not folder.is_dir() else super().find_folder(folder, variant, revision)

    @classmethod
    def folder_usage(cls) -> str:
        """The file."""
        return ":FILE"

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """The items of the manifest."""
        file = folder / f"{split or 'test'}.jsonl" if folder.is_dir() else folder
        return iter(load_items(file, audio_root=self.audio_root))

    def label(self, variant: str | None, split: str | None, folder: Path | None) -> str:
        """The file's name; its folder's if the file is called ``manifest.jsonl``, as ``sarsteer speak`` writes it."""
        if folder is None:
            return super().label(variant, split, folder)
        return (folder.stem if folder.stem != self.name else folder.absolute().parent.name) or self.name
