"""The registry of benchmarks, and the text that names one of them with its variant, split and folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.errors import BenchmarkError, did_you_mean
from sarsteer.registry import Registry


class BenchmarkRegistry(Registry[Benchmark]):
    """A registry whose help shows variants and splits instead of options."""

    def usage(self, cls: type[Benchmark], *, optional: bool = True) -> str:
        """The form of a spec, such as ``figstep[/VARIANT][@SPLIT]:FOLDER``."""
        variant = "[/VARIANT]" if len(cls.variants) > 1 else ""
        split = "[@SPLIT]" if any(variant.splits for variant in cls.variants) else ""
        return super().usage(cls) + variant + split + cls.folder_usage()

    def description(self, cls: type[Benchmark]) -> str:
        """The first line of the docstring, and the variants with their splits."""
        variants = [
            variant.name + (f" ({', '.join(variant.splits)})" if variant.splits else "") for variant in cls.variants
        ]
        named = f" Variants: {', '.join(variants)}." if len(variants) > 1 else ""
        splits = f" Splits: {', '.join(cls.variants[0].splits)}." if not named and cls.variants[0].splits else ""
        return super().description(cls) + named + splits


BENCHMARKS = BenchmarkRegistry(
    "benchmark",
    Benchmark,  # type: ignore[type-abstract]
    "sarsteer.data.benchmarks",
    BenchmarkError,
    group="sarsteer.benchmarks",
)
"""Every benchmark that can be read. None is shipped except the embedded one; licenses were read on their pages."""

_PARTS = r"(?P<name>%s)(?:/(?P<variant>[^@:]*))?(?:@(?P<split>[^:]*))?(?::(?P<folder>.*))?"
_BY_NAME = re.compile(_PARTS % r"[^/@:]*", re.DOTALL)
_BY_FILE = re.compile(_PARTS % r".+?\.py:[A-Za-z_]\w*", re.DOTALL)


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark as the command line names it: ``NAME[/VARIANT][@SPLIT][:FOLDER]``.

    NAME is a registered name or ``path/to/file.py:ClassName``.

    Attributes:
        variant: None for the first one whose files are present.
        split: None for the variant's first one.
        folder: where the files are; None for the Hub.

    Raises:
        BenchmarkError: the benchmark has no such variant or split.

    """

    benchmark: Benchmark
    variant: str | None = None
    split: str | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        name, variants = self.benchmark.name, self.benchmark.variants
        if self.variant is not None and self.benchmark.variant(self.variant) is None:
            known = ", ".join(variant.name for variant in variants)
            raise BenchmarkError(
                f"has no variant {self.variant!r}; use one of {known}"
                + did_you_mean(self.variant, [variant.name for variant in variants]),
                place=name,
            )
        if not self.candidates:
            splits = {split: None for variant in variants if self.variant in (None, variant.name)
                      for split in variant.splits}  # fmt: skip
            advice = "use " + " or ".join(splits) if splits else "leave the split out"
            raise BenchmarkError(f"has no split {self.split!r}; {advice}", place=name)

    @classmethod
    def parse(cls, text: str) -> BenchmarkSpec:
        """The benchmark that ``text`` names.

        Raises:
            BenchmarkError: there is no such benchmark, variant or split.

        """
        match = _match(text)
        benchmark, _ = BENCHMARKS.find(match["name"])
        folder = Path(match["folder"]) if match["folder"] else None
        return cls(benchmark(), match["variant"] or None, match["split"] or None, folder)

    @property
    def candidates(self) -> list[Variant]:
        """The variants that it can mean."""
        return [
            variant
            for variant in self.benchmark.variants
            if self.variant in (None, variant.name) and self.split in (None, *variant.splits)
        ]

    @property
    def label(self) -> str:
        """The name in tables, logs and file names."""
        return self.benchmark.label(self.variant, self.split, self.folder)

    def __str__(self) -> str:
        variant = f"/{self.variant}" if self.variant else ""
        split = f"@{self.split}" if self.split else ""
        return BENCHMARKS.spec_of(self.benchmark) + variant + split + (f":{self.folder}" if self.folder else "")


def names_benchmark(text: str) -> bool:
    """Whether ``text`` begins with the name of a benchmark, or with ``path/to/file.py:ClassName``."""
    name = _match(text)["name"]
    return name in BENCHMARKS.names() or _BY_FILE.fullmatch(name) is not None


def _match(text: str) -> re.Match[str]:
    match = _BY_NAME.fullmatch(text)
    if match is None or match["name"] not in BENCHMARKS.names():
        match = _BY_FILE.fullmatch(text) or match or _BY_NAME.match(text)
    assert match is not None  # the name may be empty
    return match
