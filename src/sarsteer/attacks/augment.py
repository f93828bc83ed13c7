"""Calibration on transformed clips: a gate that has met an attack's sounds recognizes requests under them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sarsteer.attacks.base import AttackContext
from sarsteer.attacks.registry import ATTACKS
from sarsteer.attacks.transform import Transform
from sarsteer.data.pairs import Pair, Pairs
from sarsteer.errors import AttackError

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item


def parse_transforms(specs: Sequence[str]) -> tuple[Transform, ...]:
    """The transforms that ``specs`` name.

    Raises:
        AttackError: there is no such attack, or it does not only change clips.

    """
    transforms = []
    for spec in specs:
        attack = ATTACKS.parse(spec)
        if not isinstance(attack, Transform):
            raise AttackError(f"changes more than clips; use audio transforms such as noise:snr=10, not {spec!r}")
        attack.check()
        transforms.append(attack)
    return tuple(transforms)


def augmented(items: Sequence[Item], transforms: Sequence[Transform], folder: Path) -> list[Item]:
    """Every item once: unchanged or under one of the transforms, in turn.

    No request occurs twice, so that cross-validation never holds out a copy of a clip that it was fitted on.

    Args:
        items: spoken requests.
        transforms: item i is changed by number i modulo their number plus one; 0 leaves it unchanged.
        folder: for the clips; they are found again.

    Raises:
        AttackError: an item is not spoken.
        AudioError: a clip cannot be read.

    """
    changed = list(items)
    for number, transform in enumerate(transforms, 1):
        chosen = range(number, len(changed), len(transforms) + 1)
        spec = ATTACKS.spec_of(transform)
        own = folder / f"{transform.name}-{hashlib.sha256(f'{spec}{transform.version}'.encode()).hexdigest()[:12]}"
        own.mkdir(parents=True, exist_ok=True)
        context = AttackContext(own, spec=spec)
        for i, item in zip(chosen, transform.attack([items[i] for i in chosen], context), strict=True):
            changed[i] = item
    return changed


def augmented_pairs(pairs: Pairs, transforms: Sequence[Transform], folder: Path) -> Pairs:
    """Pairs in which both clips of a pair are unchanged, or under the same transform; see ``augmented``."""
    sides = (augmented(side, transforms, folder) for side in (pairs.harmful, pairs.safe))
    return Pairs([Pair(pair.id, *both) for pair, *both in zip(pairs, *sides, strict=True)])
