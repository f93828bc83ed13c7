"""Write a manifest that ``load_items`` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sarsteer.data.manifest import Item
from sarsteer.errors import ManifestError
from sarsteer.files import write_text


def save_items(path: Path, items: Iterable[Item]) -> None:
    """Write the items, one JSON object a line, whole or not at all.

    Raises:
        ManifestError: an item's file does not lie in the manifest's folder, so that nobody could read it again.

    """
    folder = path.resolve().parent
    lines = [json.dumps(_row(item, folder), ensure_ascii=False) for item in items]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _row(item: Item, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"id": item.id}
    if item.media is None:
        row["modality"] = item.modality
    else:
        media = item.media.resolve()
        if not media.is_relative_to(folder):
            raise ManifestError(f"item {item.id!r}: {item.media} lies outside {folder}; copy it there first")
        row[item.modality] = os.fspath(media.relative_to(folder).as_posix())
    row |= {"question": item.question, "label": item.label}
    for key in ("pair", "category", "text", "answer"):
        if getattr(item, key) is not None:
            row[key] = getattr(item, key)
    row |= {key: value for key, value in item.extra.items() if key not in row}
    if "clean" in row:  # a path, too; one that would lead out of the folder is of no use there
        clean = Path(row.pop("clean")).resolve()
        row |= {"clean": clean.relative_to(folder).as_posix()} if clean.is_relative_to(folder) else {}
    return row
