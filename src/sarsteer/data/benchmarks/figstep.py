"""FigStep's SafeBench: its questions as a table, and as harmful and safe speech by SARSteer's authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.files import clip_path, extra_fields, find_file, read_rows, required_text
from sarsteer.data.benchmarks.interleave import interleave_twins
from sarsteer.data.manifest import Item

_FILES = {"test": "test_250.json", "train": "train_100.json"}


class FigStep(Benchmark):
    """Forbidden questions in ten scenarios, written, or spoken with safe twins."""

    name = "figstep"
    title = "FigStep (SafeBench)"
    source = "https://github.com/ThuCCSLab/FigStep; spoken pairs: https://github.com/linweiii/SARSteer (dataset/)"
    license = "MIT"
    variants = (Variant("spoken", tuple(_FILES)), Variant("text"))

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """``safebench.csv`` or another ``*safebench*.csv`` ("text"), or both folders ``figstep_audio*`` ("spoken")."""
        return _spoken(folder, split or "test") if variant == "spoken" else _text(folder)


def _text(folder: Path) -> Iterator[Item]:
    for place, row in read_rows(find_file(folder, "data/question/safebench.csv", "safebench.csv", "*safebench*.csv")):
        number = f"{required_text(row, place, 'category_id')}-{required_text(row, place, 'task_id')}"
        yield Item(
            id=f"figstep-{number}",
            question=required_text(row, place, "question"),
            label="harmful",
            modality="text",
            category=required_text(row, place, "category_name"),
            extra=extra_fields(row, "category_name"),  # its instruction belongs to an image, not beside a clip
        )


def _spoken(folder: Path, split: str) -> Iterator[Item]:
    """A harmful request and its twin have the same file name, each in its own folder."""
    yield from interleave_twins(
        _requests(find_file(folder, f"figstep_audio/{_FILES[split]}"), "harmful"),
        _requests(find_file(folder, f"figstep_audio_safe/{_FILES[split]}"), "safe"),
    )


def _requests(path: Path, label: str) -> Iterator[Item]:
    for place, row in read_rows(path):
        name = required_text(row, place, "audio_file")
        stem = Path(name).stem
        yield Item(
            id=f"figstep-{stem}-{label}",
            question=required_text(row, place, "question"),
            label=label,
            media=clip_path(path.parent / "question", name, place),
            pair=f"figstep-{stem}",
            category=required_text(row, place, "scenario"),
            extra=extra_fields(row, "scenario", "audio_file"),
        )
