"""The lines of a public benchmark, from a CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from training.pairs.rows import Row

TEXT_COLUMNS = ("prompt", "question", "instruction", "goal", "behavior", "text", "query")


class BenchmarkError(Exception):
    """The file holds no lines to compare with."""


def read_benchmark(path: Path) -> list[Row]:
    """Every text of every text column; an id is the file's name and the row.

    Raises:
        BenchmarkError: it cannot be read, or has no text column.

    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchmarkError(f"{path}: cannot be read as CSV ({error})") from None
    columns = [name for name in (lines[0] if lines else {}) if name and name.lower() in TEXT_COLUMNS]
    if not columns:
        raise BenchmarkError(f"{path}: has no rows, or none of the columns {', '.join(TEXT_COLUMNS)}")
    return [
        {"id": f"{path.name}:{number}", "question": line[column]}
        for number, line in enumerate(lines, 2)
        for column in columns
        if line[column]
    ]
