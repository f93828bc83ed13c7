"""The arms of a run: each benchmark under each defense, ready to be answered and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sarsteer.attacks.base import Attack
from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.defenses.base import DefenseContext, build_defense
from sarsteer.defenses.built import BuiltDefense
from sarsteer.evaluation.controls import PlannedDefense
from sarsteer.evaluation.inputs import Inputs
from sarsteer.evaluation.judge_choice import PlannedJudge, refusal_judge
from sarsteer.evaluation.plan import EvaluationPlan
from sarsteer.runtime.pool import Pool
from sarsteer.runtime.shared import SharedJudge, SharedModel


@dataclass(frozen=True)
class ArmTask:
    """One arm to run: a benchmark, as it is or attacked, under a defense, read by a judge."""

    benchmark: LoadedBenchmark
    planned: PlannedDefense
    defense: BuiltDefense
    judge: PlannedJudge
    attack: Attack | None = None

    @property
    def about_attack(self) -> dict[str, Any]:
        """The attack, for logs and tables, as JSON."""
        if self.attack is None:
            return {}
        return {
            "spec": self.benchmark.attack,
            "name": self.attack.name,
            "benchmark": self.benchmark.origin,
            "against": self.benchmark.against,
            "queries": self.attack.queries,
            "strength": self.attack.strength,
        }

    @property
    def key(self) -> tuple[str, str]:
        """The names of benchmark and defense; unique in a run."""
        return self.benchmark.name, self.planned.name


@dataclass(frozen=True)
class Grid:
    """The arms of a run, and what they share.

    Attributes:
        judges: by spec.
        folder: of the run's logs.

    """

    shared: SharedModel = field(repr=False)
    judges: Mapping[str, SharedJudge] = field(repr=False)
    arms: tuple[ArmTask, ...]
    folder: Path
    limit: int | None = None
    max_new_tokens: int = 256

    def settings(self, arm: ArmTask) -> dict[str, Any]:
        """The settings that a log must agree on so that it can be continued."""
        identity = self.shared.identity
        ignored = ("device", "name") if "fingerprint" in identity else ()  # the weights identify the model
        requests = {"requests": arm.benchmark.digest}
        adaptive = bool(arm.benchmark.against)  # then each defense has requests of its own
        attacked = {} if arm.attack is None else {"attack": arm.about_attack}
        return {
            "benchmark": arm.benchmark.name,
            "defense": arm.planned.name,
            "run": {
                "model": {key: value for key, value in identity.items() if key not in ignored},
                "limit": self.limit,
                "max_new_tokens": self.max_new_tokens,
            },
            "content": {
                **({} if adaptive else requests),
                "judge": arm.judge.spec,
                "judge_signature": self.judges[arm.judge.spec].judge.signature,
            },
            "settings": {**arm.defense.settings, **attacked, **(requests if adaptive else {})},
        }


def build_grid(plan: EvaluationPlan, inputs: Inputs, pool: Pool) -> Grid:
    """Load the judges and the model, and build the defenses.

    Raises:
        SarsteerError: something cannot be loaded, or a defense does not fit the model.

    """
    judges = {one.spec: pool.judge(one.spec, one.judge) for one in inputs.judges.values()}
    shared = pool.model(plan.model, plan.loading, plan.batch_size)
    plan.out.mkdir(parents=True, exist_ok=True)
    sorter = refusal_judge(inputs.judges)
    context = DefenseContext(
        shared.model,
        steering=inputs.steering,
        pairs=inputs.pairs,
        judge=None if sorter is None else judges[sorter.spec].judge,
        cache=plan.out / "vectors",
        strength=plan.strength,
        batch_size=plan.batch_size,
    )
    defenses = [(planned, build_defense(planned.defense, context)) for planned in plan.defenses]
    arms = tuple(
        ArmTask(benchmark, planned, defense, inputs.judges[benchmark.name])
        for benchmark in inputs.benchmarks
        for planned, defense in defenses
    )
    return Grid(shared, judges, arms, plan.out, plan.limit, plan.max_new_tokens)
