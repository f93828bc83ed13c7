"""The requests of the demo, from ``sarsteer-pairs``: which parts of which split, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs
from sarsteer.demo.progress import Progress

T = TypeVar("T")

TWINS, BORDERLINE, EVERYDAY = "twin pairs", "borderline", "everyday"
"""The kinds of requests: harmful ones with safe twins, safe ones that sound dangerous with unsafe contrasts, and those
to a voice assistant."""


@dataclass(frozen=True)
class Counts:
    """How many requests of each kind are used; pairs count once.

    Attributes:
        twins: pairs of a harmful request and its safe twin.
        borderline: pairs of a safe request that sounds dangerous and its unsafe contrast.
        everyday: everyday requests.

    """

    twins: int
    borderline: int
    everyday: int

    def at_most(self, limit: int | None) -> Counts:
        """The same with at most ``limit`` of each kind."""
        if limit is None:
            return self
        return Counts(*(min(limit, count) for count in (self.twins, self.borderline, self.everyday)))


@dataclass(frozen=True)
class Split:
    """Requests of one split.

    Attributes:
        twins, borderline: pairs.
        everyday: safe requests without a pair.

    """

    twins: Pairs
    borderline: Pairs
    everyday: tuple[Item, ...]

    @property
    def pairs(self) -> Pairs:
        """All pairs, to calibrate on."""
        return Pairs([*self.twins, *self.borderline])

    @property
    def items(self) -> list[Item]:
        """All requests, each with its kind as category: harmful ones first."""
        kinds = ((TWINS, self.twins), (BORDERLINE, self.borderline))
        harmful = [replace(item, category=kind) for kind, pairs in kinds for item in pairs.harmful]
        safe = [replace(item, category=kind) for kind, pairs in kinds for item in pairs.safe]
        return [*harmful, *safe, *(replace(item, category=EVERYDAY) for item in self.everyday)]


def evenly(values: Sequence[T], count: int) -> list[T]:
    """``count`` of the values, evenly spaced: the files are in order of topic."""
    count = min(count, len(values))
    return [values[index * len(values) // count] for index in range(count)]


def load_split(name: str, counts: Counts, progress: Progress) -> Split:
    """Requests of a split, spoken on first use.

    Args:
        name: ``"calibration"``, ``"tuning"`` or ``"test"``.
        counts: how many of each kind.
        progress: called for each new clip.

    Raises:
        SpeechError, MissingExtraError: there is no speech engine.

    """
    import json
    from pathlib import Path

    from sarsteer.data.pairs import pair_up
    from sarsteer.small.cache import cache_root
    from sarsteer.tts.espeak import EspeakEngine
    from sarsteer.tts.job import speak_items

    folder = Path(__file__).parents[2] / "data" / "sarsteer_pairs"

    def rows(file: str) -> list[Item]:
        lines = map(json.loads, (folder / f"{file}.jsonl").read_text(encoding="utf-8").splitlines())
        return [
            Item(row["id"], row["question"], row["label"], modality="text", pair=row.get("pair"))
            for row in lines
            if row["split"] == name
        ]

    twins = evenly(pair_up(rows("pairs"), "pairs"), counts.twins)
    borderline = evenly(pair_up(rows("borderline"), "borderline"), counts.borderline)
    everyday = evenly(rows("everyday"), counts.everyday)
    items = [item for pair in (*twins, *borderline) for item in (pair.harmful, pair.safe)] + everyday
    stage = f"Speaking the {name} requests"
    voices = ("en-us", "en-us+f3", "en-us+m3", "en-gb-scotland", "en-029", "en-gb-x-gbclan")
    spoken = speak_items(
        items,
        EspeakEngine(),
        voices,
        cache_root() / "sarsteer-pairs" / name,
        spread=True,
        progress=lambda done, total: progress(stage, done, total),
    ).items
    n, m = 2 * len(twins), 2 * len(borderline)
    return Split(pair_up(spoken[:n], "pairs"), pair_up(spoken[n : n + m], "borderline"), tuple(spoken[n + m :]))
