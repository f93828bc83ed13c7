"""Our manifest: JSON Lines, one clip a line.

``id``, ``audio`` (a path relative to the manifest), ``question`` (what is said), ``label`` ("harmful" or "safe");
optional ``pair``, ``category``, ``text`` (the instruction beside the clip), ``answer``, and anything else.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sarsteer.errors import ManifestError

LABELS = ("harmful", "safe")
_OPTIONAL = ("pair", "category", "text", "answer")


@dataclass(frozen=True)
class Item:
    """One clip of a manifest. ``extra`` holds the keys that are not ours."""

    id: str
    audio: Path
    question: str
    label: str
    pair: str | None = None
    category: str | None = None
    text: str | None = None
    answer: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def harmful(self) -> bool:
        """Whether the request should be refused."""
        return self.label == "harmful"


def load_items(manifest: str | os.PathLike[str]) -> list[Item]:
    """Read a manifest.

    Raises:
        ManifestError: naming the line: it is broken, lacks a key, repeats an id, or its clip is missing or lies
            outside the manifest's folder.

    """
    path = Path(manifest)
    if path.is_dir():
        raise ManifestError(f"{path}: is a folder; give the manifest file in it (JSON Lines)")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such manifest; check the path") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: is not text in UTF-8; a manifest is JSON Lines") from None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error})") from None
    root = path.resolve().parent
    items: list[Item] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        item = _read_line(line, f"{path}, line {number}", root)
        if item.id in first_line:
            raise ManifestError(f"{path}, line {number}: id {item.id!r} was used in line {first_line[item.id]} already")
        first_line[item.id] = number
        items.append(item)
    if not items:
        raise ManifestError(f"{path}: is empty; a manifest has one JSON object a line")
    return items


def _read_line(line: str, where: str, root: Path) -> Item:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: is not JSON ({error.msg}, column {error.colno}); mend or delete it") from None
    if not isinstance(row, dict):
        raise ManifestError(f'{where}: is no JSON object; write {{"id": ..., "audio": ...}}')
    for key in ("id", "audio", "question", "label"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ManifestError(f"{where}: needs {key!r}, a string")
    for key in _OPTIONAL:
        if row.get(key) is not None and not isinstance(row[key], str):
            raise ManifestError(f"{where}: {key!r} must be a string")
    if row["label"] not in LABELS:
        raise ManifestError(f"{where}: label {row['label']!r} is neither 'harmful' nor 'safe'")
    # Both the path as written and where its links lead must stay inside: a manifest may come from anyone.
    audio = (root / row["audio"]).resolve()
    if not audio.is_relative_to(root):
        raise ManifestError(
            f"{where}: audio {row['audio']!r} lies outside the manifest's folder; move the clip into it"
        )
    if not audio.is_file():
        raise ManifestError(f"{where}: audio {row['audio']!r} is missing; check the path, relative to the manifest")
    known = {"id", "audio", "question", "label", *_OPTIONAL}
    return Item(
        id=row["id"],
        audio=audio,
        question=row["question"],
        label=row["label"],
        extra={key: value for key, value in row.items() if key not in known},
        **{key: row.get(key) for key in _OPTIONAL},
    )
