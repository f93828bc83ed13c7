"""Find and read a benchmark's files at any depth of its folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sarsteer.errors import BenchmarkError

Row = dict[str, Any]


class MissingFilesError(BenchmarkError):
    """A folder contains none of a format's files; it may contain another variant's."""


def find_file(folder: Path, *tails: str) -> Path:
    """The only file whose path ends with the first tail that matches one, in the folder or below it.

    Raises:
        MissingFilesError: no file matches.
        BenchmarkError: several files match one tail.

    """
    for tail in tails:
        if (folder / tail).is_file():
            return folder / tail
        matches = sorted(path for path in folder.rglob(tail) if path.is_file())
        if len(matches) > 1:
            first, second = (path.relative_to(folder) for path in matches[:2])
            raise BenchmarkError(f"{folder} contains several {tail} ({first}, {second}); give the folder of one")
        if matches:
            return matches[0]
    raise missing_files(folder, *tails)


def missing_files(folder: Path, *patterns: str) -> MissingFilesError:
    """The error for a folder without any of these files."""
    return MissingFilesError(
        f"{folder} contains no {' or '.join(patterns)}; check that it is the benchmark's folder, and complete"
    )


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a CSV, JSON or JSON Lines file, each with its place for error messages.

    Raises:
        BenchmarkError: the file is not valid.

    """
    try:
        if path.suffix == ".csv":
            yield from _csv(path)
        elif path.suffix == ".jsonl":
            yield from _jsonl(path)
        else:
            yield from _json(path)
    except UnicodeDecodeError:
        raise BenchmarkError("is not UTF-8 text; download it again", place=str(path)) from None
    except OSError as error:
        raise BenchmarkError(
            f"cannot be read ({error.strerror or error}); check its permissions", place=str(path)
        ) from None


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise BenchmarkError("has more or fewer fields than the header; download it again", place=place)
                yield place, row
        except csv.Error as error:
            place = f"{path}, line {reader.line_num}"
            raise BenchmarkError(f"is not valid CSV ({error}); download it again", place=place) from None


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            if line.startswith("version https://git-lfs"):
                raise BenchmarkError("is a Git LFS pointer, not the file; run git lfs pull", place=place)
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                reason = f"{error.msg}, column {error.colno}"
                raise BenchmarkError(f"is not valid JSON ({reason}); download the file again", place=place) from None
            yield place, _object(row, place)


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}"
        raise BenchmarkError(f"is not valid JSON ({reason}); download it again", place=str(path)) from None
    if not isinstance(rows, list):
        raise BenchmarkError("is not a list of objects; check that it is the benchmark's own file", place=str(path))
    for number, row in enumerate(rows):
        place = f"{path}, entry {number}"
        yield place, _object(row, place)


def _object(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise BenchmarkError("is not a JSON object; check that the file is the benchmark's own", place=place)
    return row


def required_text(row: Row, place: str, *keys: str) -> str:
    """The first of the keys that contains a text or a whole number.

    Raises:
        BenchmarkError: none does.

    """
    text = optional_text(row, *keys)
    if text is None:
        raise BenchmarkError(f"has no {' or '.join(keys)}; every row needs one", place=place)
    return text


def optional_text(row: Row, *keys: str) -> str | None:
    """As ``required_text``; None if no key contains a text."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def clip_path(folder: Path, name: str, place: str) -> Path:
    """The path of a clip in the folder; the file need not exist.

    Raises:
        BenchmarkError: the path leads out of the folder, where a file that anyone wrote must not read.

    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise BenchmarkError(f"clip {name!r} is outside the benchmark's folder; correct the path", place=place)
    return folder / path


def extra_fields(row: Row, *used: str) -> Row:
    """The remaining JSON fields of a row: neither ``used`` nor fields of a manifest."""
    taken = {*used, "id", "audio", "modality", "question", "label", "pair", "category", "text", "answer"}
    extra = {}
    for key, value in row.items():
        if key not in taken and isinstance(key, str) and value is not None:
            try:
                extra[key] = json.loads(json.dumps(value))
            except (TypeError, ValueError):  # bytes, arrays, dates
                continue
    return extra
