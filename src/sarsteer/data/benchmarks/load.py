"""Load a benchmark: find it or fetch it, read it, and check that every clip is present."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from sarsteer.data.benchmarks.benchmark import Metric, Variant
from sarsteer.data.benchmarks.files import MissingFilesError
from sarsteer.data.benchmarks.registry import BenchmarkSpec
from sarsteer.data.manifest import Item
from sarsteer.errors import BenchmarkError
from sarsteer.prompts import INSTRUCTION

NAMED = 3
"""How many missing clips an error names."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedBenchmark:
    """The requests of a benchmark, ready to be put to a model.

    Attributes:
        name: in tables and logs.
        instruction: the text beside each clip that has no text of its own.
        judge: spec of the benchmark's default judge.
        variant: the variant that was read.
        metric: what it measures.
        forbids: what its license forbids.
        skipped: ids of the items that were left out because their clips are missing.
        seconds: the clips' lengths by item id, where known.
        attack: spec of the attack that made the items; empty without one.
        origin: name of the benchmark that was attacked; empty without an attack.
        against: name of the defense that an adaptive attack was run against; empty otherwise.

    """

    name: str
    items: tuple[Item, ...] = field(repr=False)
    instruction: str = INSTRUCTION
    judge: str = "keywords"
    variant: str = ""
    metric: Metric = "refusal"
    forbids: str = ""
    skipped: tuple[str, ...] = field(default=(), repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)
    attack: str = ""
    origin: str = ""
    against: str = ""

    @property
    def measures_usefulness(self) -> bool:
        """Whether it measures how good answers are, instead of whether requests are refused."""
        return self.metric == "chat_score"

    @property
    def about(self) -> dict[str, Any]:
        """Its description for a log, as JSON."""
        return {
            "variant": self.variant,
            "metric": self.metric,
            "skipped": list(self.skipped),
            "forbids": self.forbids,
        }

    @property
    def by_length(self) -> list[Item]:
        """The items, longest clips first: batches need little padding, and a lack of memory shows at once."""
        return sorted(self.items, key=lambda item: self.seconds.get(item.id, 0.0), reverse=True)

    def text(self, item: Item) -> str:
        """The text beside a request."""
        return item.text or self.instruction

    @property
    def digest(self) -> str:
        """SHA-256 of everything that is asked: ids, labels, questions, texts and media, in order."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.id}\0{item.label}\0{item.question}\0{self.text(item)}\0".encode())
            digest.update(item.content_digest)
            for message in item.earlier:
                digest.update(f"{message['role']}\0{message['content']}\0".encode())
        return digest.hexdigest()


def load_benchmark(
    spec: str | BenchmarkSpec,
    *,
    folder: str | os.PathLike[str] | None = None,
    split: str | None = None,
    variant: str | None = None,
    limit: int | None = None,
    revision: str | None = None,
    missing: Literal["error", "skip"] = "error",
    instruction: str | None = None,
) -> LoadedBenchmark:
    """Load a benchmark; ``extra["benchmark"]`` of each item is the benchmark's name.

    Args:
        spec: ``NAME[/VARIANT][@SPLIT][:FOLDER]``, such as ``"figstep:/data/figstep"``, ``"voicebench/advbench"``,
            ``"manifest:requests.jsonl"`` or ``"embedded"``.
        folder: where the files are, in their authors' layout, at any depth; the Hub by default.
        split: one of the variant's splits; its first by default.
        variant: one of the benchmark's variants; by default the first whose files are present.
        limit: use only the first items; twins are neighbors.
        revision: the Hub's branch, tag or commit; give a commit to get the same data tomorrow.
        missing: ``"error"``, or ``"skip"`` to leave out items whose clips are missing, with a warning.
        instruction: the text beside each clip that has no text of its own; the paper's by default.

    Raises:
        BenchmarkError, ManifestError: the benchmark is unknown, missing, not in its format, or clips are missing.

    """
    if isinstance(spec, str):
        spec = BenchmarkSpec.parse(spec)
    spec = BenchmarkSpec(
        spec.benchmark,
        variant=variant or spec.variant,
        split=split or spec.split,
        folder=spec.folder if folder is None else Path(folder),
    )
    if missing not in ("error", "skip"):
        raise BenchmarkError(f"missing must be 'error' or 'skip', not {missing!r}")
    if limit is not None and limit < 1:
        raise BenchmarkError(f"limit must be at least 1, not {limit}")
    name = spec.benchmark.name
    chosen, read = _open(spec, revision)
    items: list[Item] = []
    absent: list[Item] = []
    seen: set[str] = set()
    for item in read:
        if item.id in seen:
            raise BenchmarkError(f"has two items {item.id!r}; its file was changed, download it again", place=name)
        seen.add(item.id)
        if item.media is not None and not item.media.is_file():
            absent.append(item)
        else:
            items.append(replace(item, extra={"benchmark": name} | item.extra))
        if limit is not None and len(items) + (len(absent) if missing == "error" else 0) >= limit:
            break
    if absent and missing == "error":
        named = ", ".join(str(item.media) for item in absent[:NAMED]) + (", …" if len(absent) > NAMED else "")
        raise BenchmarkError(
            f"{len(absent)} clips are missing: {named}; download them, or skip missing clips", place=name
        )
    if absent:
        _log.warning("%s: %d items were left out because their clips are missing", name, len(absent))
    if not items:
        raise BenchmarkError(f"contains no items ({len(absent)} clips are missing); download it again", place=name)
    return LoadedBenchmark(
        spec.label,
        tuple(items),
        INSTRUCTION if instruction is None else instruction,
        spec.benchmark.judge,
        chosen.name,
        chosen.metric,
        spec.benchmark.forbids,
        tuple(item.id for item in absent),
    )


def _open(spec: BenchmarkSpec, revision: str | None) -> tuple[Variant, Iterator[Item]]:
    """The variant and its items; the first item is read already, which shows whether the files are present."""
    benchmark, candidates = spec.benchmark, spec.candidates
    failures: list[MissingFilesError] = []
    try:
        folder = benchmark.find_folder(spec.folder, candidates[0].name, revision)
        for variant in candidates if spec.folder is not None else candidates[:1]:
            split = spec.split or (variant.splits[0] if variant.splits else None)
            try:
                items = benchmark.read(folder, variant.name, split)
                first = next(items, None)
            except MissingFilesError as error:
                failures.append(error)
                continue
            return variant, chain([] if first is None else [first], items)
        raise failures[0]
    except BenchmarkError as error:
        if error.place is None:
            error.place = benchmark.name
        raise
