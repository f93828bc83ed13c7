"""The arms of an attacked run: each benchmark as it is, and under each attack, under each defense."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sarsteer.attacks.base import Access, AttackContext
from sarsteer.attacks.registry import ATTACKS
from sarsteer.errors import AttackError, SarsteerError
from sarsteer.evaluation.attack_choice import PlannedAttack

if TYPE_CHECKING:
    from sarsteer.data.benchmarks import LoadedBenchmark
    from sarsteer.evaluation.arms import ArmTask, Grid

Progress = Callable[[str, int, int], None]


def with_attacks(grid: Grid, attacks: Sequence[PlannedAttack], seed: int, progress: Progress | None = None) -> Grid:
    """``grid`` with an arm for each of its arms under each attack. The attacked requests are made now.

    A black box is run once for each benchmark. An adaptive attack is run against each defense, and its requests are put
    to that defense only.

    Raises:
        AttackError: an attack does not fit the model, a defense or a request.

    """
    arms = list(grid.arms)
    for planned in attacks:
        made: dict[tuple[str, str], LoadedBenchmark] = {}
        for arm in grid.arms:
            against = arm.planned.name if planned.attack.adaptive else ""
            key = arm.benchmark.name, against
            if key not in made:
                made[key] = _attacked(grid, arm, planned, against, seed, progress)
            arms.append(replace(arm, benchmark=made[key], attack=planned.attack))
    return replace(grid, arms=tuple(arms))


def _attacked(
    grid: Grid, arm: ArmTask, planned: PlannedAttack, against: str, seed: int, progress: Progress | None
) -> LoadedBenchmark:
    from sarsteer.evaluation.benchmarks import with_clip_lengths

    benchmark, attack = arm.benchmark, planned.attack
    weights = grid.shared.identity.get("weights", "")
    parts = (benchmark.digest, against and arm.defense.key, str(seed), *([weights] if weights else []))
    folder = grid.folder / "attacks" / planned.key / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    inside = attack.access is Access.WHITE_BOX
    stage = f"Attack {planned.spec}" + (f" against {against}" if against else "")
    if inside and not grid.shared.model.steerable:
        raise attack.reject(f"needs the model's weights, and {grid.shared.model.name} has none here; use a local model")
    context = AttackContext(
        folder,
        spec=ATTACKS.spec_of(attack),
        instruction=benchmark.instruction,
        model=grid.shared.model if inside else None,
        answerer=grid.shared.answerer if inside else None,
        defense=arm.defense if against else None,
        seed=seed,
        batch_size=grid.shared.batch_size,
        max_new_tokens=grid.max_new_tokens,
        progress=None if progress is None else lambda done, total: progress(stage, done, total),
    )
    try:
        items = attack.attack(benchmark.items, context)
    except AttackError:
        raise
    except SarsteerError as error:
        raise error.at(f"attack {planned.spec!r} on {benchmark.name}") from None
    attacked = replace(
        benchmark,
        name=f"{benchmark.name} + {planned.spec}",
        items=tuple(items),
        attack=planned.spec,
        origin=benchmark.name,
        against=against,
    )
    return with_clip_lengths(attacked)
