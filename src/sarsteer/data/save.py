"""Write manifests."""

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
    """Write items as a manifest, atomically.

    Raises:
        ManifestError: an item's file is outside the manifest's folder, where ``load_items`` would not read it.

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
            raise ManifestError(f"{item.media} is outside {folder}; copy it there first", place=f"item {item.id!r}")
        row[item.modality] = os.fspath(media.relative_to(folder).as_posix())
    row |= {"question": item.question, "label": item.label}
    for key in ("pair", "category", "text", "answer"):
        if getattr(item, key) is not None:
            row[key] = getattr(item, key)
    row |= {key: value for key, value in item.extra.items() if key not in row}
    if "clean" in row:  # also a path; left out if it is outside the folder
        clean = Path(row.pop("clean")).resolve()
        row |= {"clean": clean.relative_to(folder).as_posix()} if clean.is_relative_to(folder) else {}
    return row
