"""Detect requests that calibration and test share: a defense must not be measured on its calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sarsteer.audio import load_clip
from sarsteer.data.manifest import Item
from sarsteer.data.text import normalize, word_similarity
from sarsteer.errors import AudioError, ManifestError

NAMED = 3
"""How many shared items an error names."""

TWINS = 0.5
"""Least word similarity of two items with one pair name to be twins; two manifests may both number their pairs."""


@dataclass(frozen=True)
class Overlap:
    """An item of one set that is also in the other; ``by`` is "id", "pair", "sound" or "question"."""

    first: Item
    second: Item
    by: str

    def __str__(self) -> str:
        return f"{self.first.id!r} and {self.second.id!r} ({self.by})"


def shared_items(a: Iterable[Item], b: Iterable[Item]) -> list[Overlap]:
    """Each item of ``a`` that ``b`` also has, with the first reason that applies.

    Two items are the same by id and pair; by the question without case, punctuation and spaces; as twins of one pair;
    or by content: the decoded sound, so that a WAV and a FLAC of it agree, or the file's bytes if it is not audio.
    """
    others = list(b)
    by_id = {(item.id, item.pair): item for item in reversed(others)}
    by_question = {normalize(item.question): item for item in reversed(others)}
    by_question.pop("", None)  # questions without a letter or digit are not compared
    by_content = {_content(item): item for item in reversed(others) if item.media is not None}
    by_pair: dict[str, list[Item]] = {}
    for item in others:
        if item.pair is not None:
            by_pair.setdefault(item.pair, []).append(item)
    overlaps = []
    for item in a:
        if (same := by_id.get((item.id, item.pair))) is not None:
            overlaps.append(Overlap(item, same, "id"))
        elif (same := by_question.get(normalize(item.question))) is not None:
            overlaps.append(Overlap(item, same, "question"))
        elif (twin := _twin(item, by_pair.get(item.pair or "", []))) is not None:
            overlaps.append(Overlap(item, twin, "pair"))
        elif item.media is not None and (same := by_content.get(_content(item))) is not None:
            overlaps.append(Overlap(item, same, "sound"))
    return overlaps


def check_disjoint(calibration: Sequence[Item], test: Sequence[Item]) -> None:
    """Check that two sets share no item.

    Raises:
        ManifestError: they do; the message names the first few.

    """
    shared = shared_items(calibration, test)
    if shared:
        named = ", ".join(map(str, shared[:NAMED])) + (", …" if len(shared) > NAMED else "")
        raise ManifestError(f"calibration and test share {len(shared)} items: {named}; remove them from one of the two")


def _twin(item: Item, group: list[Item]) -> Item | None:
    twins = (other for other in group if word_similarity(item.question, other.question) >= TWINS)
    return next(twins, None) if item.pair is not None else None


def _content(item: Item) -> str:
    if item.modality == "audio":
        try:
            return load_clip(item.audio).digest
        except AudioError:  # reported when the clip is used; here its bytes are compared
            pass
    return item.content_digest.hex()
