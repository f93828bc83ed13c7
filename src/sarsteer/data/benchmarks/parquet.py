"""Parquet tables that contain the clips: the Hub's ``Audio`` column, ``{"bytes": ..., "path": ...}``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sarsteer.data.benchmarks.cache import store_clip
from sarsteer.data.benchmarks.files import Row, clip_path, missing_files
from sarsteer.errors import BenchmarkError, MissingExtraError

_ROWS = 32
"""Rows in memory at a time; their clips may be minutes long."""


def read_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with its place for error messages.

    Raises:
        BenchmarkError: the file is damaged.
        MissingExtraError: pyarrow, which comes with ``datasets``, is not installed.

    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "eval") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise BenchmarkError(f"is not a valid Parquet file ({reason}); download it again", place=str(path)) from None


def find_tables(folder: Path, *patterns: str) -> list[Path]:
    """The Parquet files that the first matching pattern matches, sorted.

    Raises:
        MissingFilesError: no pattern matches.

    """
    for pattern in patterns:
        tables = sorted(path for path in folder.rglob(pattern) if path.is_file())
        if tables:
            return tables
    raise missing_files(folder, *patterns)


def clip_file(value: Any, folder: Path, place: str) -> Path | None:
    """The clip of an ``Audio`` value as a file; None if the row has none.

    Raises:
        BenchmarkError: the value has another form.

    """
    if value is None:
        return None
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, dict) or not {"bytes", "path"} & set(value):
        raise BenchmarkError("its audio is neither bytes nor a path; download the file again", place=place)
    if value.get("bytes"):
        return store_clip(value["bytes"])
    if value.get("path"):
        return clip_path(folder, value["path"], place)
    return None
