"""Run a plan: calibrate if necessary, evaluate step by step, and save the results of each step."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import CalibrationError
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.plan import EvaluationPlan, parse_plan
from sarsteer.evaluation.run import run
from sarsteer.reproduction.plan import Plan, Step, command_of, folder_of, judges_of, results_of, steering_of
from sarsteer.runtime.pool import Pool

if TYPE_CHECKING:
    from sarsteer.data.pairs import Pairs
    from sarsteer.runtime.shared import SharedModel
    from sarsteer.steering.artifact import Steering

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
    pool = Pool()
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
        steering = _calibrated(shared, pairs[: step.pairs], step, out, batch_size, progress)
        chosen, notes = _feasible(step, plan, shared, pool, pairs, steering, out)
        results = run(_evaluation_plan(chosen, plan, out, batch_size, options), progress, pool)
        results = replace(results, notes=(*results.notes, *notes))
        results.save(results_of(step, out))
    pool.close()
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
        loading=loading,
        command=command_of(step, setup, out),
    )


def _calibrated(
    shared: SharedModel, pairs: Pairs, step: Step, out: Path, batch_size: int, progress: Progress
) -> Steering:
    """The steering of these pairs, cached by everything that it depends on."""
    from sarsteer.errors import ArtifactError
    from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.calibration import calibrate

    model: Any = shared.model
    model.check_steerable()
    content = "\0".join((model.fingerprint.digest, pairs.digest, INSTRUCTION, REFUSAL_PROMPT))
    cached = out / "calibrations" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
    cached.parent.mkdir(parents=True, exist_ok=True)
    if cached.is_file():
        try:
            steering = Steering.load(cached)
        except ArtifactError:
            raise ArtifactError("is damaged; delete it and run again", place=str(cached)) from None
    else:
        partial = cached.with_suffix(".partial")
        steering = calibrate(
            model,
            pairs,
            batch_size=batch_size,
            checkpoint=partial,
            progress=lambda done, total: progress(f"Calibrating {step.model} on {len(pairs)} pairs", done, total),
        )
        steering.save(cached)
        partial.unlink(missing_ok=True)
    file = steering_of(step, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file() or Steering.load(file).digest != steering.digest:
        steering.save(file)
    return steering


def _feasible(
    step: Step, plan: Plan, shared: SharedModel, pool: Pool, pairs: Pairs, steering: Steering, out: Path
) -> tuple[Step, list[Note]]:
    """The step without defenses that this model or these pairs do not allow, and notes that say why."""
    from sarsteer.steering.artifact import DEFAULT_K

    left_out: dict[str, str] = {}
    for spec in step.defenses:
        _, _, k = spec.partition("sarsteer:k=")
        if k and int(k) > steering.max_k:
            left_out[spec] = f"the safe activations have rank {steering.max_k}"
    if "c2r" in step.defenses:
        why = _without_refusals(step, plan, shared, pool, pairs, out)
        if why:
            left_out["c2r"] = why
    kept = tuple(spec for spec in step.defenses if spec not in left_out)
    notes = [Note(f"is left out: {why}", "left_out", spec) for spec, why in left_out.items()]
    if steering.max_k < DEFAULT_K and any(_at_default_k(spec) for spec in kept):
        text = (
            f"with {step.pairs} calibration pairs k is {steering.max_k}, not {DEFAULT_K}: "
            f"the safe activations have rank {steering.max_k}"
        )
        notes.append(Note(text, "smaller_k"))
    if "h2s" in step.defenses and len(pairs) > step.pairs:
        text = f"h2s and c2r are computed from all {len(pairs)} pairs, the others from the first {step.pairs}"
        notes.append(Note(text, "pairs"))
    return replace(step, defenses=kept), notes


def _at_default_k(spec: str) -> bool:
    """Whether a defense uses the default k."""
    kind, _, options = spec.partition(":")
    return kind == "sarsteer" and not options.startswith("k=")


def _without_refusals(step: Step, plan: Plan, shared: SharedModel, pool: Pool, pairs: Pairs, out: Path) -> str:
    """Why c2r is impossible; empty if it is possible. Its vectors are cached for the evaluation."""
    from sarsteer.data.benchmarks import load_benchmark
    from sarsteer.defenses import DEFENSES, DefenseContext, build_defense
    from sarsteer.evaluation.judge_choice import choose_judges, parse_judges, refusal_judge

    benchmarks = [load_benchmark(plan.setup.benchmarks[name], limit=plan.setup.limit) for name in step.benchmarks]
    planned = refusal_judge(choose_judges(benchmarks, parse_judges(judges_of(step, plan.setup))))
    judge = None if planned is None else pool.judge(planned.spec, planned.judge).judge
    cache = folder_of(step, out) / "vectors"
    context = DefenseContext(shared.model, pairs=pairs, judge=judge, cache=cache, batch_size=shared.batch_size)
    try:
        build_defense(DEFENSES.parse("c2r"), context)
    except CalibrationError as error:
        return str(error)
    return ""


def _empty_gpu() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
