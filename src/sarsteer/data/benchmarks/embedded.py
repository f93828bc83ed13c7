"""The clips of ``sarsteer-tiny``, which are part of the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.manifest import Item, load_items
from sarsteer.errors import BenchmarkError
from sarsteer.tiny import clips_manifest


class Embedded(Benchmark):
    """The embedded model's own clips."""

    name = "embedded"
    title = "Clips of sarsteer-tiny"
    source = "part of sarsteer"
    license = "Apache-2.0"
    judge = "embedded"
    variants = (Variant("embedded", ("test", "calibration", "everyday")),)

    def find_folder(self, folder: Path | None, variant: str, revision: str | None) -> Path:
        """The folder in the package."""
        if folder is not None:
            raise BenchmarkError("the clips are part of the package; leave the folder out")
        return clips_manifest("test").parent

    @classmethod
    def folder_usage(cls) -> str:
        """Nothing."""
        return ""

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """The clips of a split."""
        return iter(load_items(folder / f"{split or 'test'}.jsonl"))
