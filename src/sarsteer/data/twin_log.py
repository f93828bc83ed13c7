"""A log of the twins so far: one line per request, on disk before the next request begins."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sarsteer.data.manifest import Item
from sarsteer.errors import ManifestError


@dataclass(frozen=True)
class TwinResult:
    """A request's twin, or None, and why each failed try was rejected."""

    id: str
    question: str
    twin: str | None
    reasons: tuple[str, ...] = ()


class TwinLog:
    """The results in a file. An incomplete last line is dropped, and its request is tried again.

    Raises:
        ManifestError: the file belongs to a run with other settings, is damaged, or cannot be written.

    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._results: dict[str, TwinResult] = {}
        head = json.dumps({"settings": settings}, ensure_ascii=False)
        try:
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if not whole:
                path.write_bytes(head.encode() + b"\n")
                return
            if len(whole) < len(data):
                os.truncate(path, len(whole))
        except OSError as error:
            reason = error.strerror or error
            raise ManifestError(f"cannot be written ({reason}); choose another file", place=str(path)) from None
        first, *rest = whole.decode("utf-8", "replace").splitlines()
        if first != head:
            raise ManifestError(
                "belongs to a run with other settings; delete it to start again, or use those settings", place=str(path)
            )
        for number, line in enumerate(rest, 2):
            try:
                row = json.loads(line)
                result = TwinResult(row["id"], row["question"], row["twin"], tuple(row["reasons"]))
            except (ValueError, KeyError, TypeError):
                place = f"{path}, line {number}"
                raise ManifestError("is damaged; delete the line to try its request again", place=place) from None
            self._results[_key(result.id, result.question)] = result

    def of(self, item: Item) -> TwinResult | None:
        """The item's result; None if there is none, or if it was for another question."""
        return self._results.get(_key(item.id, item.question))

    def add(self, result: TwinResult) -> None:
        """Write a result to disk."""
        self._results[_key(result.id, result.question)] = result
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = error.strerror or error
            raise ManifestError(f"cannot be written ({reason}); free space and resume", place=str(self._path)) from None


def _key(name: str, question: str) -> str:
    return hashlib.sha256(f"{name}\0{question}".encode()).hexdigest()
