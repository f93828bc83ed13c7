"""AdvBench: its goals as a table, and as speech with safe twins by SARSteer's authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.files import clip_path, extra_fields, find_file, read_rows, required_text
from sarsteer.data.benchmarks.interleave import interleave_twins
from sarsteer.data.manifest import Item


class AdvBench(Benchmark):
    """Harmful instructions, written or spoken."""

    name = "advbench"
    title = "AdvBench"
    source = "https://github.com/llm-attacks/llm-attacks; spoken pairs: https://github.com/linweiii/SARSteer (dataset/)"
    license = "not verified"
    variants = (Variant("spoken"), Variant("text"))

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """``harmful_behaviors.csv`` ("text"), or ``advbench_audio.json`` with ``advbench_audio_safe.json``."""
        return _spoken(folder) if variant == "spoken" else _text(folder)


def _text(folder: Path) -> Iterator[Item]:
    path = find_file(folder, "data/advbench/harmful_behaviors.csv", "harmful_behaviors.csv", "advbench.csv")
    goal = ("goal", "behavior", "prompt")
    for number, (place, row) in enumerate(read_rows(path)):
        yield Item(
            id=f"advbench-{number}",
            question=required_text(row, place, *goal),
            label="harmful",
            modality="text",
            extra=extra_fields(row, *goal),  # `target` is the compliance that an attack forces, not an answer
        )


def _spoken(folder: Path) -> Iterator[Item]:
    """Twins share their ``question_id``; the clips are in a folder with the list's name."""
    harmful = _requests(find_file(folder, "advbench_audio.json"), "harmful")
    return interleave_twins(harmful, _requests(find_file(folder, "advbench_audio_safe.json"), "safe"))


def _requests(path: Path, label: str) -> Iterator[Item]:
    for place, row in read_rows(path):
        number = required_text(row, place, "question_id")
        yield Item(
            id=f"advbench-{number}-{label}",
            question=required_text(row, place, "question"),
            label=label,
            media=clip_path(path.parent / path.stem, required_text(row, place, "audio_name"), place),
            pair=f"advbench-{number}",
            extra=extra_fields(row, "question_id", "audio_name"),
        )
