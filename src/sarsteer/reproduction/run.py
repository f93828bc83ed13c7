"""Run a plan: calibrate where that was not done, evaluate step by step, and keep each step's results."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import CalibrationError
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Evaluation
from sarsteer.evaluation.run import Settings, run
from sarsteer.reproduction.plan import Plan, Step, by_hand, folder_of, judges_of, results_of, steering_of

if TYPE_CHECKING:
    from sarsteer.data.pairs import Pairs
    from sarsteer.runtime.shared import SharedModel
    from sarsteer.steering.artifact import Steering

Progress = Callable[[str, int, int], None]


def run_plan(
    plan: Plan, out: Path, *, batch_size: int = 16, loading: Mapping[str, Any] | None = None, progress: Progress
) -> None:
    """Everything that is not done yet; each step's results lie in ``results_of(step, out)`` afterwards.

    Args:
        plan: the steps.
        out: the folder; what it holds of an earlier run with the same setup is used.
        batch_size: requests a forward.
        loading: how models are loaded, by model: ``device``, ``trust_remote_code``; dtype is the plan's.
        progress: called with a stage, how much of it is done, and how much there is.

    Raises:
        SarsteerError: something is missing or does not fit, or requests found no answer. What was done is kept.

    """
    from sarsteer.data.pairs import load_pairs
    from sarsteer.runtime import shared as sharing

    pairs = load_pairs(plan.setup.calibration, "calibration")
    if len(pairs) < plan.setup.pairs:
        raise CalibrationError(
            f"{plan.setup.calibration}: has {len(pairs)} pairs, not {plan.setup.pairs}; give --pairs {len(pairs)}"
        )
    done, before = 0, ""
    for step in plan.steps:
        if before not in ("", step.model):
            sharing.forget()  # one large model at a time
            _empty_gpu()
        before = step.model
        progress("Steps", done, len(plan.steps))
        given = {"dtype": plan.setup.dtype, **(loading or {}).get(step.model, {})}
        given = {name: value for name, value in given.items() if value is not None}
        shared = sharing.shared_model(plan.setup.models[step.model], given, batch_size)
        steering = _calibrated(shared, pairs[: step.pairs], step, out, batch_size, progress)
        chosen, notes = _possible(step, plan, shared, pairs, steering, out)
        results = run(_settings(chosen, plan, out, batch_size, given), progress)
        results = replace(results, notes=(*results.notes, *notes))
        results.save(results_of(step, out))
        done += 1
    progress("Steps", done, len(plan.steps))


def _settings(step: Step, plan: Plan, out: Path, batch_size: int, loading: Mapping[str, Any]) -> Settings:
    setup = plan.setup
    return Settings(
        model=setup.models[step.model],
        benchmarks=tuple(setup.benchmarks[name] for name in step.benchmarks),
        defenses=step.defenses,
        out=folder_of(step, out),
        steering=steering_of(step, out),
        judge=judges_of(step, plan.setup),
        limit=setup.limit,
        calibration=setup.calibration,
        max_new_tokens=setup.max_new_tokens,
        batch_size=batch_size,
        loading=loading,
        command=by_hand(step, setup, out),
    )


def _calibrated(
    shared: SharedModel, pairs: Pairs, step: Step, out: Path, batch_size: int, progress: Progress
) -> Steering:
    """The steering of these pairs; kept by what it depends on, so that another model or other pairs make another."""
    from sarsteer.errors import ArtifactError
    from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.calibration import calibrate

    model: Any = shared.model
    model.check_steerable()
    content = "\0".join((model.fingerprint.digest, pairs.digest, INSTRUCTION, REFUSAL_PROMPT))
    kept = out / "calibrations" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if kept.is_file():
        try:
            steering = Steering.load(kept)
        except ArtifactError:
            raise ArtifactError(f"{kept}: is damaged; delete it, and it is made anew") from None
    else:
        partial = kept.with_suffix(".partial")
        steering = calibrate(
            model,
            pairs,
            batch_size=batch_size,
            checkpoint=partial,
            progress=lambda done, total: progress(f"Calibrating {step.model} on {len(pairs)} pairs", done, total),
        )
        steering.save(kept)
        partial.unlink(missing_ok=True)
    file = steering_of(step, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file() or Steering.load(file).digest != steering.digest:
        steering.save(file)
    return steering


def _possible(
    step: Step, plan: Plan, shared: SharedModel, pairs: Pairs, steering: Steering, out: Path
) -> tuple[Step, list[Note]]:
    """The step without what this model or these pairs cannot give, and why; and what they give less of."""
    from sarsteer.steering.artifact import DEFAULT_K

    left_out: dict[str, str] = {}
    for spec in step.defenses:
        _, _, k = spec.partition("sarsteer:k=")
        if k and int(k) > steering.max_k:
            left_out[spec] = f"the safe activations have rank {steering.max_k}"
    if "c2r" in step.defenses:
        why = _without_refusals(step, plan, shared, pairs, out)
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
        text = f"h2s and c2r are drawn from all {len(pairs)} pairs, the others from the first {step.pairs}"
        notes.append(Note(text, "pairs"))
    return replace(step, defenses=kept), notes


def _at_default_k(spec: str) -> bool:
    """Whether a defense ablates the paper's k, or as many as there are."""
    kind, _, own = spec.partition(":")
    return kind == "sarsteer" and not own.startswith("k=")


def _without_refusals(step: Step, plan: Plan, shared: SharedModel, pairs: Pairs, out: Path) -> str:
    """Why there can be no c2r; made here, its vectors are found again by the evaluation."""
    from sarsteer.data.benchmarks import load_benchmark
    from sarsteer.defenses.mean_difference import difference_vectors
    from sarsteer.evaluation.judge_choice import choose_judges, is_scoring
    from sarsteer.runtime.shared import shared_judge

    benchmarks = [load_benchmark(plan.setup.benchmarks[name], limit=plan.setup.limit) for name in step.benchmarks]
    specs = choose_judges(benchmarks, judges_of(step, plan.setup)).values()
    judge = next((shared_judge(spec).judge for spec in specs if not is_scoring(spec)), shared_judge("keywords").judge)
    model: Any = shared.model
    try:
        difference_vectors("c2r", model, pairs, judge, folder_of(step, out) / "vectors", shared.batch_size)
    except CalibrationError as error:
        return str(error)
    return ""


def load_results(plan: Plan, out: Path) -> dict[Step, Evaluation]:
    """The results of the steps that are done."""
    return {step: Evaluation.load(results_of(step, out)) for step in plan.steps if results_of(step, out).is_file()}


def _empty_gpu() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
