"""Manifests: JSON Lines, one request per line.

Required: ``id``, ``audio`` (a path relative to the manifest, or to the audio root that the user names), ``question``
(what is said), ``label`` ("harmful" or "safe"). Optional: ``pair``, ``category``, ``text`` (the instruction beside the
clip), ``answer``, ``earlier`` (turns before the request, as [user, assistant] texts), and any other key.
For an altered clip, ``clean`` (the path of the original clip) or ``said`` (its words) lets an evaluation check whether
the model still understands it.

Instead of ``audio``, a row may have the path of an ``image``, a ``video`` or a registered modality; or
``"modality": "text"``, and the model reads the question.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sarsteer.errors import AudioError, ManifestError, MessageError
from sarsteer.messages import Message
from sarsteer.modalities import kinds

LABELS = ("harmful", "safe")
EARLIER = "earlier"
"""Key of an item's extra: earlier turns, as [user, assistant] texts."""
WITHIN = "within"
"""Key of an item's extra: whether the clean clip is only a part of the altered one."""
_OPTIONAL = ("pair", "category", "text", "answer")


@dataclass(frozen=True)
class Item:
    """One request of a manifest.

    Attributes:
        modality: ``"audio"``, ``"text"``, ``"image"``, or another registered one.
        media: its file; None for text.
        extra: all other keys.

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
    def group(self) -> str:
        """What kind of request it is: its key ``group``, or ``harmful``, ``twin`` or ``benign``."""
        named = self.extra.get("group")
        if isinstance(named, str) and named:
            return named
        return "harmful" if self.harmful else "twin" if self.pair is not None else "benign"

    @property
    def audio(self) -> Path:
        """The clip.

        Raises:
            ManifestError: the item is not audio.

        """
        if self.modality != "audio" or self.media is None:
            raise ManifestError(f"is {self.modality}, not audio; choose spoken items", place=f"item {self.id!r}")
        return self.media

    def turn(self, text: str) -> list[Message]:
        """Earlier turns, then the request and ``text``, which follows a written request on a new line."""
        if self.modality == "text":
            return [*self.earlier, {"role": "user", "content": [{"type": "text", "text": f"{self.question}\n{text}"}]}]
        request = {"type": self.modality, "path": str(self.media)}
        return [*self.earlier, {"role": "user", "content": [request, {"type": "text", "text": text}]}]

    @property
    def earlier(self) -> list[Message]:
        """The turns before the request: key ``earlier``, a list of [user, assistant] texts.

        Raises:
            ManifestError: the key has another form.

        """
        turns = self.extra.get(EARLIER, [])
        pairs = isinstance(turns, (list, tuple)) and all(
            isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
            for turn in turns
        )
        if not pairs:
            raise ManifestError("'earlier' must be a list of [user, assistant] texts", place=f"item {self.id!r}")
        return [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]

    @property
    def content_digest(self) -> bytes:
        """SHA-256 of the model's input: the media file, or the question."""
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


def load_items(
    manifest: str | os.PathLike[str],
    *,
    modality: str | None = None,
    audio_root: str | os.PathLike[str] | None = None,
) -> list[Item]:
    """Read a manifest.

    Args:
        manifest: its file.
        modality: of rows that do not name one; by default that of the row's file, or ``"audio"``.
        audio_root: the folder that the paths of clips are relative to, and that contains all of them; by default the
            manifest's own.

    Raises:
        ManifestError: a line is invalid, lacks a key or repeats an id, or its clip is missing or outside the folder.
            The message names the line.

    """
    path = Path(manifest)
    if path.is_dir():
        raise ManifestError("is a folder; give the manifest in it (JSON Lines)", place=str(path))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ManifestError("no such manifest; check the path", place=str(path)) from None
    except UnicodeDecodeError:
        raise ManifestError("is not UTF-8 text; give a manifest (JSON Lines)", place=str(path)) from None
    except OSError as error:
        reason = error.strerror or error
        raise ManifestError(f"cannot be read ({reason}); check its permissions", place=str(path)) from None
    root = _Root(path.resolve().parent if audio_root is None else Path(audio_root).resolve(), audio_root is not None)
    if not root.folder.is_dir():
        raise ManifestError("is not a folder; give --audio-root the folder of the clips", place=str(audio_root))
    items: list[Item] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        item = _read_line(line, place, root, modality)
        if item.id in first_line:
            raise ManifestError(
                f"repeats id {item.id!r} of line {first_line[item.id]}; give each item its own id", place=place
            )
        first_line[item.id] = number
        items.append(item)
    if not items:
        raise ManifestError("is empty; a manifest has one JSON object per line", place=str(path))
    return items


class _Root(NamedTuple):
    """The folder that contains all clips, and whether the user named it."""

    folder: Path
    named: bool


def _read_line(line: str, place: str, root: _Root, default: str | None) -> Item:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, column {error.colno}"
        raise ManifestError(f"is not valid JSON ({reason}); fix or delete the line", place=place) from None
    if not isinstance(row, dict):
        raise ManifestError('is not a JSON object; write {"id": ..., "audio": ...}', place=place)
    modality = _modality(row, place, default)
    media = None if modality == "text" else modality
    for key in ("id", *((media,) if media else ()), "question", "label"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ManifestError(f"needs {key!r}, a string", place=place)
    for key in _OPTIONAL:
        if row.get(key) is not None and not isinstance(row[key], str):
            raise ManifestError(f"{key!r} must be a string, not {row[key]!r}", place=place)
    if row["label"] not in LABELS:
        raise ManifestError(f"label must be 'harmful' or 'safe', not {row['label']!r}", place=place)
    extra = {}
    if row.get("clean") is not None:
        if not isinstance(row["clean"], str):
            raise ManifestError("'clean' must be a string, the path of the clip before it was altered", place=place)
        extra["clean"] = str(_file(row["clean"], "clean", place, root))
    known = {"id", "modality", modality, "question", "label", *_OPTIONAL}
    return Item(
        id=row["id"],
        question=row["question"],
        label=row["label"],
        modality=modality,
        media=_file(row[media], media, place, root) if media else None,
        extra={key: value for key, value in row.items() if key not in known} | extra,
        **{key: row.get(key) for key in _OPTIONAL},
    )


def _modality(row: dict[str, Any], place: str, default: str | None) -> str:
    """A row's ``modality``, else that of its file, else ``default``, else audio."""
    files = [kind for kind in kinds() if kind in row]
    if len(files) > 1:
        raise ManifestError(f"has {' and '.join(files)}; give one file per row", place=place)
    modality = row.get("modality")
    if modality is None:
        return files[0] if files else default or "audio"
    if modality != "text" and modality not in kinds():
        known = ", ".join(("text", *kinds()))
        raise ManifestError(f"unknown modality {modality!r}; use one of {known}", place=place)
    if files and files[0] != modality:
        raise ManifestError(f"modality is {modality!r}, but the row has {files[0]}; correct one of them", place=place)
    return str(modality)


def _file(name: str, kind: str, place: str, root: _Root) -> Path:
    folder, called = root.folder, str(root.folder) if root.named else "the manifest's folder"
    path = (folder / name).resolve()  # links must not lead out of it either: anyone may have written the manifest
    if not path.is_relative_to(folder):
        advice = "" if root.named else "move the file into it, or "
        raise ManifestError(
            f"{kind} {name!r} is outside {called}; {advice}pass --audio-root with a folder above all clips", place=place
        )
    if not path.is_file():
        raise ManifestError(f"{kind} {name!r} is missing; check the path, relative to {called}", place=place)
    return path
