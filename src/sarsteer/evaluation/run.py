"""Run an evaluation, or resume one: everything is checked before the first answer, and nothing is printed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace

from sarsteer.evaluation.abliterated import abliterated_model
from sarsteer.evaluation.arms import build_grid
from sarsteer.evaluation.attacked import with_attacks
from sarsteer.evaluation.inputs import load_inputs
from sarsteer.evaluation.plan import EvaluationPlan
from sarsteer.evaluation.results import Evaluation
from sarsteer.evaluation.word_errors import measure_word_errors
from sarsteer.runtime.pool import Pool

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
    from sarsteer.evaluation.inspect.collect import collect
    from sarsteer.evaluation.inspect.grid import run_grid

    own_pool = Pool()
    try:
        inputs = load_inputs(plan)
        grid = build_grid(plan, inputs, pool or own_pool)
        with ExitStack() as stack:
            stack.callback(grid.shared.answerer.close)
            if plan.abliterate:
                assert inputs.steering is not None, "parse_plan checks this"
                stack.enter_context(abliterated_model(grid.shared, inputs.steering))
            grid = with_attacks(grid, plan.attacks, plan.seed, progress)
            benchmarks = list({id(arm.benchmark): arm.benchmark for arm in grid.arms}.values())
            word_errors = measure_word_errors(benchmarks, grid.shared, plan.max_wer, plan.out, progress)
            logs = run_grid(grid, progress)
        results = collect(logs, grid.arms, word_errors)
    finally:
        own_pool.close()
    strength = plan.strength
    report = inputs.steering.report(strength.alpha, strength.k, strength.lambda_) if inputs.steering is not None else ()
    return replace(
        results,
        command=plan.command,
        layers=tuple(asdict(layer) for layer in report),
        notes=(*inputs.notes, *(one.note for one in word_errors)),
    )
