"""Pairs and benign requests from the clips that a visitor uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pair, Pairs
from sarsteer.errors import CalibrationError
from sarsteer.server.limits import Limits
from sarsteer.studio.uploads import read_upload

MOST = 200
"""Clips of each kind; more belong into ``sarsteer calibrate``, which resumes."""


def own_pairs(harmful: Sequence[str], safe: Sequence[str], limits: Limits) -> Pairs:
    """Pairs in the order of the file names: the first harmful clip with the first safe one, and so on.

    Raises:
        CalibrationError: the numbers differ, or there are too few or too many clips.
        AudioError: a clip is invalid; the error names its file.

    """
    if not harmful or not safe:
        raise CalibrationError("give harmful clips and their safe twins")
    if len(harmful) != len(safe):
        raise CalibrationError(
            f"{len(harmful)} harmful clips and {len(safe)} safe ones: each harmful clip needs one safe twin"
        )
    _check_count(len(harmful))
    items = [
        [_item(path, label, limits) for path in sorted(paths, key=_name)]
        for paths, label in ((harmful, "harmful"), (safe, "safe"))
    ]
    return Pairs([Pair(str(number), *both) for number, both in enumerate(zip(*items, strict=True))])


def own_benign(paths: Sequence[str], limits: Limits) -> list[Item]:
    """Safe requests without a twin.

    Raises:
        CalibrationError: there are too many.
        AudioError: a clip is invalid; the error names its file.

    """
    _check_count(len(paths))
    return [_item(path, "safe", limits) for path in sorted(paths, key=_name)]


def _check_count(count: int) -> None:
    if count > MOST:
        raise CalibrationError(f"{count} clips; the studio takes at most {MOST} of each kind, sarsteer calibrate more")


def _item(path: str, label: str, limits: Limits) -> Item:
    read_upload(path, limits)
    return Item(id=_name(path), question="", label=label, media=Path(path))


def _name(path: str) -> str:
    return Path(path).name
