"""Load a benchmark: find it or fetch it, read it, and check that every clip is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from sarsteer.data.benchmarks.files import NotThereError
from sarsteer.data.benchmarks.hub import fetch
from sarsteer.data.benchmarks.kinds import Benchmark, Variant
from sarsteer.data.benchmarks.registry import BENCHMARKS
from sarsteer.data.manifest import Item
from sarsteer.errors import BenchmarkError

NAMED = 3
"""Missing clips that an error names; the rest it counts."""

_log = logging.getLogger(__name__)


class BenchmarkItems(list[Item]):
    """The items, and which of the benchmark they are.

    Attributes:
        variant: the variant's name, chosen where none was asked for.
        metric: "refusal" or "chat_score".
        skipped: ids of the items that were left out since their clips are missing.

    """

    def __init__(self, items: Iterable[Item], variant: Variant, skipped: tuple[str, ...]) -> None:
        super().__init__(items)
        self.variant = variant.name
        self.metric = variant.metric
        self.skipped = skipped


def split_spec(spec: str) -> tuple[str, str | None, str | None, str | None]:
    """Name, variant, split and folder of ``NAME[/VARIANT][@SPLIT][:FOLDER]``; None where one is not in it."""
    head, _, folder = spec.partition(":")
    whole, _, split = head.partition("@")
    name, _, variant = whole.partition("/")
    return name, variant or None, split or None, folder or None


def load_benchmark(
    name: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    variant: str | None = None,
    revision: str | None = None,
    missing: str = "error",
) -> BenchmarkItems:
    """Load a benchmark's items; each says in ``extra["benchmark"]`` where it is from.

    Args:
        name: a key of ``BENCHMARKS``.
        folder: where it lies, as its authors lay it out, however deep; from the Hub where None.
        split: one of the variant's; its first where None.
        limit: the first so many items; twins lie side by side.
        variant: one of the benchmark's; the first whose files are there where None.
        revision: the Hub's branch, tag or commit; give a commit to have the same data tomorrow.
        missing: "error", or "skip" to leave out items whose clips are not there, and say so.

    Raises:
        BenchmarkError: it is unknown, not there, not in its format, or clips of it are missing.

    """
    if name not in BENCHMARKS:
        raise BenchmarkError(f"unknown benchmark {name!r}; use one of {', '.join(BENCHMARKS)}")
    if missing not in ("error", "skip"):
        raise BenchmarkError(f"missing must be 'error' or 'skip', not {missing!r}")
    if limit is not None and limit < 1:
        raise BenchmarkError(f"limit must be at least 1, not {limit}")
    benchmark = BENCHMARKS[name]
    chosen, found = _open(benchmark, folder, variant, split, revision)
    items: list[Item] = []
    absent: list[Item] = []
    seen: set[str] = set()
    for item in found:
        if item.id in seen:
            raise BenchmarkError(f"{name}: has two items {item.id!r}; its file was changed, fetch it again")
        seen.add(item.id)
        if item.media is not None and not item.media.is_file():
            absent.append(item)
        else:
            items.append(replace(item, extra={"benchmark": name} | item.extra))
        if limit is not None and len(items) + (len(absent) if missing == "error" else 0) >= limit:
            break
    if absent and missing == "error":
        named = ", ".join(str(item.media) for item in absent[:NAMED]) + (", …" if len(absent) > NAMED else "")
        raise BenchmarkError(f"{name}: {len(absent)} clips are missing: {named}; fetch them, or skip what is missing")
    if absent:
        _log.warning("%s: %d items were left out, since their clips are missing", name, len(absent))
    if not items:
        raise BenchmarkError(f"{name}: nothing of it is there ({len(absent)} clips missing); fetch it again")
    return BenchmarkItems(items, chosen, tuple(item.id for item in absent))


def _open(
    benchmark: Benchmark, folder: str | os.PathLike[str] | None, variant: str | None, split: str | None,
    revision: str | None,
) -> tuple[Variant, Iterator[Item]]:  # fmt: skip
    """The variant, and its items with the first one read: only then is it known whether the files are there."""
    name = benchmark.name
    if variant is not None and benchmark.variant(variant) is None:
        names = ", ".join(known.name for known in benchmark.variants)
        raise BenchmarkError(f"{name}: no variant {variant!r}; use one of {names}")
    candidates = [v for v in benchmark.variants if variant in (None, v.name) and split in (None, *v.splits)]
    if not candidates:
        known = sorted({part for v in benchmark.variants if variant in (None, v.name) for part in v.splits})
        raise BenchmarkError(f"{name}: no split {split!r}; {'use ' + ' or '.join(known) if known else 'leave it out'}")
    if folder is None:
        candidates = candidates[:1]
        place = fetch(benchmark, candidates[0].name, revision)
    else:
        place = Path(folder)
        if not place.exists():
            raise BenchmarkError(f"{name}: {place}: no such folder; check the path")
        if not place.is_dir() and name != "manifest":
            raise BenchmarkError(f"{name}: {place}: is a file; name the folder that holds the benchmark")
    failure: NotThereError | None = None
    for candidate in candidates:
        part = split or (candidate.splits[0] if candidate.splits else None)
        try:
            items = benchmark.read(place, candidate.name, part)
            first = next(items, None)
        except NotThereError as error:
            failure = failure or error
            continue
        return candidate, chain([] if first is None else [first], items)
    raise BenchmarkError(f"{name}: {failure}")
