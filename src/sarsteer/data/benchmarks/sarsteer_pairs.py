"""The groups of ``sarsteer-pairs``, spoken on first use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data import sarsteer_pairs
from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.manifest import Item
from sarsteer.data.sarsteer_pairs.load import speak_lines
from sarsteer.data.sarsteer_pairs.texts import lines
from sarsteer.errors import BenchmarkError, ManifestError

_SPLITS = ("test", "tuning", "calibration")
_ALL = "all"


class SarsteerPairs(Benchmark):
    """Our English calibration set. Evaluate on the split ``test``: its topics are not in the other splits.

    In a spec, voices can take the folder's place: ``sarsteer-pairs/twin@test:en-us+f5,kokoro:af_heart``.
    """

    name = sarsteer_pairs.NAME
    title = "sarsteer-pairs"
    source = "part of sarsteer"
    license = "Apache-2.0"
    variants = tuple(Variant(name, _SPLITS) for name in (_ALL, *sarsteer_pairs.GROUPS))

    def find_folder(self, folder: Path | None, variant: str, revision: str | None) -> Path:
        """The voices, in a path's place."""
        return Path() if folder is None else folder

    @classmethod
    def folder_usage(cls) -> str:
        """Voices."""
        return "[:VOICE,VOICE]"

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """The items of a group; their clips are spoken as they are read."""
        voices = None if folder == Path() else str(folder).split(",")
        groups = sarsteer_pairs.GROUPS if variant == _ALL else (variant,)
        try:
            return speak_lines(lines(split or _SPLITS[0], groups), voices)
        except ManifestError as error:
            raise BenchmarkError(error.message) from None

    def label(self, variant: str | None, split: str | None, folder: Path | None) -> str:
        """The name, and the voices if they are not the default ones."""
        return super().label(variant, split, folder) + ("" if folder is None else f":{folder}")
