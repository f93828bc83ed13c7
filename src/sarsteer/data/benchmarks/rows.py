"""Rows with a clip and its text: in Parquet, or as files beside a metadata table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.files import (
    Row,
    clip_path,
    extra_fields,
    find_file,
    optional_text,
    read_rows,
    required_text,
)
from sarsteer.data.benchmarks.parquet import clip_file, read_parquet
from sarsteer.data.manifest import Item

REQUEST = ("prompt", "question", "text", "goal", "instruction", "transcription", "transcript", "sentence")
ANSWER = ("output", "reference", "answer")
CLIP = ("file_name", "audio_path", "audio_file", "audio", "path", "file")

SpokenRow = tuple[str, Row, Path | None]
"""A row's place for error messages, the row, and its clip."""


def rows_of_tables(paths: list[Path]) -> Iterator[SpokenRow]:
    """The rows of Parquet files."""
    for path in paths:
        for place, row in read_parquet(path):
            yield place, row, clip_file(row.get("audio"), path.parent, place)


def rows_of_files(folder: Path) -> Iterator[SpokenRow]:
    """The rows of a metadata table, with the clips beside it."""
    path = find_file(folder, "metadata.csv", "metadata.jsonl", "*.jsonl", "*.json")
    for place, row in read_rows(path):
        yield place, row, clip_path(path.parent, required_text(row, place, *CLIP), place)


def item_of(name: str, spoken: SpokenRow, label: str, category: str | None) -> Item:
    """The item of a row."""
    place, row, clip = spoken
    return Item(
        id=name,
        question=required_text(row, place, *REQUEST),
        label=label,
        modality="text" if clip is None else "audio",
        media=clip,
        category=category,
        answer=optional_text(row, *ANSWER) if label == "safe" else None,
        extra=extra_fields(row, *REQUEST, *ANSWER, *CLIP, "type"),
    )
