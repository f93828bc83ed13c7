"""Run a plan: calibrate if necessary, evaluate step by step, and save the results of each step."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from sarsteer.errors import CalibrationError
from sarsteer.evaluation.plan import EvaluationPlan, parse_plan
from sarsteer.evaluation.run import run
from sarsteer.reproduction.calibrations import calibrated
from sarsteer.reproduction.feasible import feasible_step
from sarsteer.reproduction.plan import Plan, Step, command_of, folder_of, judges_of, results_of, steering_of
from sarsteer.runtime.pool import Pool

Progress = Callable[[str, int, int], None]


def run_plan(
    plan: Plan, out: Path, *, batch_size: int = 16, loading: Mapping[str, Any] | None = None, progress: Progress
) -> None:
    """Run every unfinished step; its results are then in ``results_of(step, out)``.

    Args:
        plan: the steps.
        out: the folder; finished parts of an earlier run with the same setup are used.
        batch_size: requests per forward.
        loading: loading options by model: ``device``, ``trust_remote_code``; the plan sets dtype.
        progress: called with a stage, the finished part and the total.

    Raises:
        SarsteerError: something is missing or invalid, or requests have no answer. Finished work is kept.

    """
    from sarsteer.data.pairs import load_pairs

    pairs = load_pairs(plan.setup.calibration, "calibration")
    if len(pairs) < plan.setup.pairs:
        raise CalibrationError(
            f"has {len(pairs)} pairs, not {plan.setup.pairs}; pass --pairs {len(pairs)}", place=plan.setup.calibration
        )
    with closing(Pool()) as pool:
        before = ""
        for done, step in enumerate(plan.steps):
            if before not in ("", step.model):
                pool.close()  # one large model at a time
                _empty_gpu()
            before = step.model
            progress("Steps", done, len(plan.steps))
            options = {"dtype": plan.setup.dtype, **(loading or {}).get(step.model, {})}
            options = {name: value for name, value in options.items() if value is not None}
            shared = pool.model(plan.setup.models[step.model], options, batch_size)
            steering = calibrated(shared, pairs[: step.pairs], step, out, progress)
            chosen, notes = feasible_step(step, plan, shared, pool, pairs, steering, out)
            results = run(_evaluation_plan(chosen, plan, out, batch_size, options), progress, pool)
            results = replace(results, notes=(*results.notes, *notes))
            results.save(results_of(step, out))
    progress("Steps", len(plan.steps), len(plan.steps))


def _evaluation_plan(step: Step, plan: Plan, out: Path, batch_size: int, loading: Mapping[str, Any]) -> EvaluationPlan:
    setup = plan.setup
    return parse_plan(
        setup.models[step.model],
        [setup.benchmarks[name] for name in step.benchmarks],
        step.defenses,
        folder_of(step, out),
        steering=steering_of(step, out),
        judges=judges_of(step, plan.setup),
        limit=setup.limit,
        calibration=setup.calibration,
        max_new_tokens=setup.max_new_tokens,
        batch_size=batch_size,
        controls=step.controls,
        loading=loading,
        command=command_of(step, setup, out),
    )


def _empty_gpu() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
