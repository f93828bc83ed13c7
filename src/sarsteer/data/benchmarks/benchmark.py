"""What a benchmark declares: its source, its license, its variants, and how its files are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from sarsteer.data.benchmarks.hub import HubDataset
from sarsteer.data.manifest import Item
from sarsteer.errors import BenchmarkError

Metric = Literal["refusal", "chat_score"]
"""What a benchmark measures: whether requests are refused, or how good the answers are."""


@dataclass(frozen=True)
class Variant:
    """One form of a benchmark, such as its spoken or its written requests.

    Attributes:
        splits: its parts, the test part first; empty if there is only one.

    """

    name: str
    splits: tuple[str, ...] = ()
    metric: Metric = "refusal"


@dataclass(frozen=True)
class Benchmark(ABC):
    """Requests in their authors' format. Extend it in one new file; see ``docs/extending.md``.

    Attributes:
        name: the name in specs and tables.
        title: the name in text.
        source: where to get the files.
        license: its name, or ``"not verified"``.
        forbids: what the license forbids, in a few words.
        may_be_spoken: False if the license forbids turning the requests into speech.
        judge: spec of the judge that reads the answers unless the user chooses one.
        variants: its forms. If none is requested, the first whose files are present.
        hub: its dataset on the Hugging Face Hub, if there is one.

    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    license: ClassVar[str]
    forbids: ClassVar[str] = ""
    may_be_spoken: ClassVar[bool] = True
    judge: ClassVar[str] = "keywords"
    variants: ClassVar[tuple[Variant, ...]]
    hub: ClassVar[HubDataset | None] = None

    @abstractmethod
    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """The requests of one variant and split, one at a time.

        Args:
            folder: the benchmark's folder, or a folder above it.
            variant: one of ``variants``.
            split: one of the variant's splits; None if it has none.

        Raises:
            MissingFilesError: the folder does not contain this variant.
            BenchmarkError: a file is not in the documented format.

        """

    def find_folder(self, folder: Path | None, variant: str, revision: str | None) -> Path:
        """The folder to read from: the given one, or a snapshot of the Hub's dataset.

        Raises:
            BenchmarkError: there is no such folder, or the dataset cannot be fetched.

        """
        if folder is None:
            if self.hub is None:
                raise BenchmarkError(f"is not on the Hub; get it from {self.source} and give its folder")
            return self.hub.fetch(variant, revision)
        if not folder.exists():
            raise BenchmarkError(f"there is no folder {folder}; check the path")
        if not folder.is_dir():
            raise BenchmarkError(f"{folder} is a file; give the folder that contains the benchmark")
        return folder

    def label(self, variant: str | None, split: str | None, folder: Path | None) -> str:
        """The benchmark's name in tables, logs and file names."""
        return self.name + (f"/{variant}" if variant else "") + (f"@{split}" if split else "")

    @classmethod
    def folder_usage(cls) -> str:
        """How a spec ends, for help: the folder is optional if the Hub has the files."""
        return ":FOLDER" if cls.hub is None else "[:FOLDER]"

    @classmethod
    def variant(cls, name: str) -> Variant | None:
        """The variant with that name."""
        return next((variant for variant in cls.variants if variant.name == name), None)
