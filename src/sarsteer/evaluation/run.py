"""Run an evaluation, or resume one: everything is checked before the first answer, and nothing is printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from sarsteer.defenses.base import DefenseContext, build_defense
from sarsteer.evaluation.inputs import Inputs, load_inputs
from sarsteer.evaluation.judge_choice import is_scoring
from sarsteer.evaluation.plan import EvaluationPlan
from sarsteer.evaluation.results import Evaluation
from sarsteer.evaluation.word_errors import measure_word_errors
from sarsteer.runtime.pool import Pool
from sarsteer.runtime.shared import SharedModel

Progress = Callable[[str, int, int], None]


def run(plan: EvaluationPlan, progress: Progress | None = None, pool: Pool | None = None) -> Evaluation:
    """Run ``plan``, or continue a run that was killed.

    Args:
        plan: what to do.
        progress: called with a stage, how much of it is done, and its total.
        pool: loaded models and judges to use; by default they are loaded, and dropped at the end.

    Raises:
        SarsteerError: something is missing or does not fit, or some requests have no answer.

    """
    if pool is not None:
        return _run(plan, progress, pool)
    pool = Pool()
    try:
        return _run(plan, progress, pool)
    finally:
        pool.close()


def _run(plan: EvaluationPlan, progress: Progress | None, pool: Pool) -> Evaluation:
    from sarsteer.evaluation.inspect.collect import collect
    from sarsteer.evaluation.inspect.grid import run_grid

    inputs = load_inputs(plan)
    for spec in dict.fromkeys(inputs.judges.values()):
        pool.judge(spec)
    shared = pool.model(plan.model, plan.loading, plan.batch_size)
    plan.out.mkdir(parents=True, exist_ok=True)
    grid = _grid(plan, inputs, shared, pool)
    try:
        word_errors = []
        if plan.max_wer is not None:
            cache = plan.out / "hearing.jsonl"
            measured = [measure_word_errors(one, shared, plan.max_wer, cache, progress) for one in inputs.benchmarks]
            word_errors = [one for one in measured if one is not None]
        logs = run_grid(grid, progress)
    finally:
        shared.answerer.close()
    results = collect(logs, grid.arms, word_errors)
    return replace(
        results,
        command=plan.command,
        layers=_layers(plan, inputs),
        notes=(*inputs.notes, *(one.note for one in word_errors)),
    )


def _grid(plan: EvaluationPlan, inputs: Inputs, shared: SharedModel, pool: Pool) -> Any:
    from sarsteer.evaluation.inspect.grid import ArmTask, Grid

    # c2r asks which requests the model refuses; a judge that scores cannot say
    sorters = (pool.judge(spec).judge for spec in inputs.judges.values() if not is_scoring(spec))
    context = DefenseContext(
        shared.model,
        steering=inputs.steering,
        pairs=inputs.pairs,
        judge=next(sorters, None),
        cache=plan.out / "vectors",
        strength=plan.strength,
        batch_size=plan.batch_size,
    )
    built = [(one, build_defense(one.defense, context)) for one in plan.defenses]
    arms = [
        ArmTask(benchmark, inputs.judges[benchmark.name], planned, defense)
        for benchmark in inputs.benchmarks
        for planned, defense in built
    ]
    judges = {spec: pool.judge(spec) for spec in inputs.judges.values()}
    return Grid(shared, judges, arms, plan.out, plan.limit, plan.max_new_tokens)


def _layers(plan: EvaluationPlan, inputs: Inputs) -> tuple[dict[str, Any], ...]:
    if inputs.steering is None:
        return ()
    strength = plan.strength
    return tuple(asdict(row) for row in inputs.steering.report(strength.alpha, strength.k, strength.lambda_))
