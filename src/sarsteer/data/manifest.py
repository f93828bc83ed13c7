"""Our manifest: JSON Lines, one clip a line.

``id``, ``audio`` (a path relative to the manifest), ``question`` (what is said), ``label`` ("harmful" or "safe");
optional ``pair``, ``category``, ``text`` (the instruction beside the clip), ``answer``, and anything else. Of an
altered clip, ``clean`` (the path of the clip before) or ``said`` (its words) tells an evaluation what was to be heard.

A request need not be spoken: instead of ``audio`` a row may have ``image``, ``video``, or a registered kind, again
with a path; or ``"modality": "text"``, and the question itself is what the model reads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sarsteer.errors import AudioError, ManifestError, MessageError
from sarsteer.messages import Message
from sarsteer.modalities import kinds

LABELS = ("harmful", "safe")
_OPTIONAL = ("pair", "category", "text", "answer")


@dataclass(frozen=True)
class Item:
    """One request of a manifest.

    Attributes:
        modality: how it is put: ``"audio"``, ``"text"``, ``"image"``, or another kind.
        media: its file; None for text.
        extra: the keys that are not ours.

    """

    id: str
    question: str
    label: str
    modality: str = "audio"
    media: Path | None = None
    pair: str | None = None
    category: str | None = None
    text: str | None = None
    answer: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def harmful(self) -> bool:
        """Whether the request should be refused."""
        return self.label == "harmful"

    @property
    def audio(self) -> Path:
        """The clip.

        Raises:
            ManifestError: the request is not spoken.

        """
        if self.modality != "audio" or self.media is None:
            raise ManifestError(f"item {self.id!r} is {self.modality}, not audio; choose spoken items")
        return self.media

    def turn(self, text: str) -> list[Message]:
        """The request as a conversation of one user message, with ``text`` after it; a written one on its own line."""
        if self.modality == "text":
            return [{"role": "user", "content": [{"type": "text", "text": f"{self.question}\n{text}"}]}]
        request = {"type": self.modality, "path": str(self.media)}
        return [{"role": "user", "content": [request, {"type": "text", "text": text}]}]

    @property
    def content_digest(self) -> bytes:
        """SHA-256 of what the model is given."""
        return hashlib.sha256(self.question.encode() if self.media is None else self.media.read_bytes()).digest()


@contextmanager
def place_errors(items: Sequence[Item]) -> Iterator[None]:
    """Errors about one of the ``items``' conversations name the item."""
    try:
        yield
    except (AudioError, MessageError) as error:
        if error.index is None:
            raise
        raise error.at(f"item {items[error.index].id!r}") from None


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
    modality = _modality(row, where)
    media = None if modality == "text" else modality
    for key in ("id", *((media,) if media else ()), "question", "label"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ManifestError(f"{where}: needs {key!r}, a string")
    for key in _OPTIONAL:
        if row.get(key) is not None and not isinstance(row[key], str):
            raise ManifestError(f"{where}: {key!r} must be a string")
    if row["label"] not in LABELS:
        raise ManifestError(f"{where}: label {row['label']!r} is neither 'harmful' nor 'safe'")
    extra = {}
    if row.get("clean") is not None:
        if not isinstance(row["clean"], str):
            raise ManifestError(f"{where}: 'clean' must be a string, the path of the clip before it was altered")
        extra["clean"] = str(_file(row["clean"], "clean", where, root))
    known = {"id", "modality", modality, "question", "label", *_OPTIONAL}
    return Item(
        id=row["id"],
        question=row["question"],
        label=row["label"],
        modality=modality,
        media=_file(row[media], media, where, root) if media else None,
        extra={key: value for key, value in row.items() if key not in known} | extra,
        **{key: row.get(key) for key in _OPTIONAL},
    )


def _modality(row: dict[str, Any], where: str) -> str:
    """How a row's request is put: as it says, else by the file that it names; audio where it names none."""
    named = [kind for kind in kinds() if kind in row]
    if len(named) > 1:
        raise ManifestError(f"{where}: names {' and '.join(named)}; give one file a row")
    told = row.get("modality")
    if told is None:
        return named[0] if named else "audio"
    if told != "text" and told not in kinds():
        raise ManifestError(f"{where}: unknown modality {told!r}; use one of {', '.join(('text', *kinds()))}")
    if named and named[0] != told:
        raise ManifestError(f"{where}: its modality is {told!r}, but it names {named[0]}; mend one of them")
    return str(told)


def _file(name: str, kind: str, where: str, root: Path) -> Path:
    # Both the path as written and where its links lead must stay inside: a manifest may come from anyone.
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ManifestError(f"{where}: {kind} {name!r} lies outside the manifest's folder; move the file into it")
    if not path.is_file():
        raise ManifestError(f"{where}: {kind} {name!r} is missing; check the path, relative to the manifest")
    return path
