"""Benchmarks as an evaluation names them: ``NAME[/VARIANT][@SPLIT][:FOLDER]``, ``manifest:FILE``, ``embedded``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sarsteer import tiny
from sarsteer.data.benchmarks import BENCHMARKS, load_benchmark
from sarsteer.data.benchmarks.load import split_spec
from sarsteer.data.manifest import Item, load_items
from sarsteer.data.pairs import manifest_path
from sarsteer.errors import BenchmarkError
from sarsteer.prompts import INSTRUCTION


@dataclass(frozen=True)
class Loaded:
    """A benchmark, ready to be asked.

    Attributes:
        name: in tables and logs.
        items: its requests.
        instruction: beside each clip that brings no text of its own.
        judge: the one that fits, where none is asked for.
        about: where it comes from, as JSON, for the log.
        seconds: how long the clips are, by the items' ids, where that is known.

    """

    name: str
    items: Sequence[Item] = field(repr=False)
    instruction: str = INSTRUCTION
    judge: str = "keywords"
    about: dict[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)

    @property
    def by_length(self) -> list[Item]:
        """The items, longest clips first: a batch of like lengths has little padding, and what is too much for the
        memory is known at once. Where no lengths are known, as they are.
        """
        return sorted(self.items, key=lambda item: self.seconds.get(item.id, 0.0), reverse=True)

    def text(self, item: Item) -> str:
        """What stands beside a request."""
        return item.text or self.instruction

    @property
    def digest(self) -> str:
        """SHA-256 of all that is asked: ids, labels, questions, sounds, texts, in order."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.id}\0{item.label}\0{item.question}\0{self.text(item)}\0".encode())
            digest.update(item.content_digest)
        return digest.hexdigest()


def open_benchmark(spec: str, *, limit: int | None = None, instruction: str | None = None) -> Loaded:
    """Load what ``spec`` names.

    Args:
        spec: such as ``"figstep:/data/figstep"``, ``"voicebench/advbench"``, ``"manifest:mine.jsonl"``, ``"embedded"``.
        limit: the first so many requests; twins lie side by side.
        instruction: beside each clip that brings no text of its own; the paper's by default.

    Raises:
        BenchmarkError, ManifestError: it is unknown, not there, or broken.

    """
    name, variant, split, folder = split_spec(spec)
    return open_named(name, folder=folder, split=split, variant=variant, limit=limit, instruction=instruction)


def open_named(
    name: str,
    *,
    folder: str | None = None,
    split: str | None = None,
    variant: str | None = None,
    limit: int | None = None,
    instruction: str | None = None,
) -> Loaded:
    """As ``open_benchmark``, from the spec's parts."""
    if limit is not None and limit < 1:
        raise BenchmarkError(f"limit must be at least 1, not {limit}")
    text = INSTRUCTION if instruction is None else instruction
    if name == "embedded":
        if folder or variant:
            raise BenchmarkError("embedded: its clips are in the package; leave folder and variant out")
        items: Sequence[Item] = load_items(manifest_path(tiny.NAME, split or "test"))[:limit]
        return Loaded(_named(name, None, split), items, text, "embedded", {"metric": "refusal"})
    if name not in BENCHMARKS:
        raise BenchmarkError(f"unknown benchmark {name!r}; use one of {', '.join((*BENCHMARKS, 'embedded'))}")
    if name == "manifest" and folder is None:
        raise BenchmarkError("manifest: names no file; write manifest:FILE")
    found = load_benchmark(name, folder=folder, split=split, limit=limit, variant=variant)
    about = {"variant": found.variant, "metric": found.metric, "skipped": list(found.skipped)}
    about["forbids"] = BENCHMARKS[name].forbids
    shown = Path(folder).stem if name == "manifest" and folder else _named(name, variant, split)
    return Loaded(shown, tuple(found), text, "keywords", about)


def _named(name: str, variant: str | None, split: str | None) -> str:
    return name + (f"/{variant}" if variant else "") + (f"@{split}" if split else "")
