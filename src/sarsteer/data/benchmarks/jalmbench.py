"""JALMBench: spoken harmful queries and jailbreaks, in tables that contain the clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.files import extra_fields, optional_text, required_text
from sarsteer.data.benchmarks.hub import HubDataset
from sarsteer.data.benchmarks.parquet import clip_file, find_tables, read_parquet
from sarsteer.data.manifest import Item

SUBSETS = ("AHarm", "THarm", "ADiv", "ICA", "DAN", "DI", "PAP", "SSJ", "AMSE", "BoN", "AdvWave")


class JALMBench(Benchmark):
    """Harmful queries, and the same queries under text and audio attacks, in many voices."""

    name = "jalmbench"
    title = "JALMBench"
    source = "https://huggingface.co/datasets/AnonymousUser000/JALMBench"
    license = "CC BY 4.0"
    variants = tuple(Variant(name) for name in SUBSETS)
    hub = HubDataset("AnonymousUser000/JALMBench", files=("*{variant}*.parquet", "*/{variant}/*.parquet"))

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """``<group>/<subset>.parquet``, or its shards. The request is ``original_text``; ``text`` is what is said.

        One request occurs in many voices and attacks, which share its ``question``.
        """
        rows_of_id: dict[str, int] = {}
        for path in find_tables(folder, f"{variant}.parquet", f"{variant}-*.parquet", f"{variant}/*.parquet"):
            for place, row in read_parquet(path):
                number = required_text(row, place, "id")  # of the request: its voices share it
                rows_of_id[number] = rows_of_id.get(number, 0) + 1
                suffix = f"-{rows_of_id[number]}" if rows_of_id[number] > 1 else ""
                request = required_text(row, place, "original_text", "text")
                spoken = optional_text(row, "text")
                clip = clip_file(row.get("audio"), path.parent, place)
                yield Item(
                    id=f"jalmbench-{variant}-{number}{suffix}",
                    question=request,
                    label="harmful",
                    modality="text" if clip is None else "audio",
                    media=clip,
                    category=optional_text(row, "category"),
                    extra=extra_fields(row, "original_text")
                    | ({"spoken_text": spoken} if spoken and spoken != request else {}),
                )
