"""VoiceBench: spoken requests that test a voice assistant's usefulness; only its AdvBench subset is harmful."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.hub import HubDataset
from sarsteer.data.benchmarks.parquet import find_tables
from sarsteer.data.benchmarks.rows import item_of, rows_of_tables
from sarsteer.data.manifest import Item

_CHAT = (
    "alpacaeval", "alpacaeval_full", "alpacaeval_speaker", "commoneval", "wildvoice", "openbookqa", "mmsu", "sd-qa",
    "ifeval", "bbh",
)  # fmt: skip


class VoiceBench(Benchmark):
    """Spoken chat, knowledge and instruction-following requests, and spoken AdvBench."""

    name = "voicebench"
    title = "VoiceBench"
    source = "https://huggingface.co/datasets/hlt-lab/voicebench"
    license = "Apache-2.0"
    variants = (Variant("advbench"), *(Variant(name, metric="chat_score") for name in _CHAT))
    hub = HubDataset("hlt-lab/voicebench", files=("{variant}/*.parquet",))

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """``<subset>/<split>-*.parquet``."""
        label = "harmful" if variant == "advbench" else "safe"
        pattern = f"{variant}/{split}-*.parquet" if split else f"{variant}/*.parquet"
        for number, row in enumerate(rows_of_tables(find_tables(folder, pattern, f"{variant}.parquet"))):
            part = Path(row[0].split(", row")[0]).stem.split("-")[0]
            yield item_of(f"voicebench-{variant}-{part}-{number}", row, label, category=variant)
