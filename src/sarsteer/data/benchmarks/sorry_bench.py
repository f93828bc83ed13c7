"""SORRY-Bench: written requests in 44 or 45 categories. Its license forbids turning them into speech."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.files import extra_fields, find_file, read_rows, required_text
from sarsteer.data.benchmarks.hub import HubDataset
from sarsteer.data.manifest import Item
from sarsteer.errors import BenchmarkError


class SorryBench(Benchmark):
    """Written unsafe requests in a fine-grained taxonomy."""

    name = "sorry_bench"
    title = "SORRY-Bench"
    source = "https://huggingface.co/sorry-bench"
    license = "SORRY-Bench license"
    forbids = "giving the prompts to models that can generate anything but text (also speech), and redistribution"
    may_be_spoken = False
    variants = (Variant("202503"), Variant("202406"))
    hub = HubDataset("sorry-bench/sorry-bench-{variant}", files=("question.jsonl",), gated=True)

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """The base questions of ``question.jsonl``; rewritten ones (another ``prompt_style``) are left out."""
        for place, row in read_rows(find_file(folder, "question.jsonl", "base_question.jsonl")):
            if row.get("prompt_style", "base") != "base":
                continue
            turns = row.get("turns")
            if not isinstance(turns, list) or not turns or not isinstance(turns[0], str) or not turns[0].strip():
                raise BenchmarkError("has no turns, a list of texts; every row needs one", place=place)
            yield Item(
                id=f"sorry_bench-{variant}-{required_text(row, place, 'question_id')}",
                question=turns[0].strip(),
                label="harmful",
                modality="text",
                category=required_text(row, place, "category"),
                extra=extra_fields(row, "turns"),
            )
