"""The requests of the demo, from ``sarsteer-pairs``: which parts of which split, and how many."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs, pair_up
from sarsteer.data.sarsteer_pairs.load import speak_lines
from sarsteer.data.sarsteer_pairs.texts import NAME, lines
from sarsteer.demo.progress import Progress

TWINS, BORDERLINE, EVERYDAY = "twin pairs", "borderline", "everyday"
"""The kinds of requests: harmful ones with safe twins, safe ones that sound dangerous with unsafe contrasts, and those
to a voice assistant."""
_GROUPS = (("harmful", "twin"), ("contrast", "borderline"), ("everyday",))  # of sarsteer-pairs, by kind


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


def load_split(name: str, counts: Counts, progress: Progress, *, text: bool = False) -> Split:
    """Requests of a split, spoken on first use.

    Args:
        name: ``"calibration"``, ``"tuning"`` or ``"test"``.
        counts: how many of each kind; the first ones are a sample, because the set is in mixed order.
        progress: called for each clip.
        text: leave the requests in text, and speak nothing.

    Raises:
        SpeechError, MissingExtraError: eSpeak NG is not installed, or the cache cannot be written.

    """
    stage = f"{'Reading' if text else 'Speaking'} the {name} requests"
    numbers = (2 * counts.twins, 2 * counts.borderline, counts.everyday)
    parts = [lines(name, groups)[:number] for groups, number in zip(_GROUPS, numbers, strict=True)]
    written = [item for part in parts for item in part]
    items: list[Item] = []
    for item in written if text else speak_lines(written, None):
        items.append(item)
        progress(stage, len(items), len(written))
    twins, borderline = len(parts[0]), len(parts[0]) + len(parts[1])
    return Split(pair_up(items[:twins], NAME), pair_up(items[twins:borderline], NAME), tuple(items[borderline:]))
