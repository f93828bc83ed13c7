"""Which defenses of a step a model and its pairs allow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sarsteer.defenses import DEFENSES, DefenseContext, build_defense
from sarsteer.defenses.sarsteer import SarsteerDefense
from sarsteer.errors import CalibrationError
from sarsteer.evaluation.note import Note
from sarsteer.reproduction.plan import Plan, Step, folder_of, judges_of
from sarsteer.steering.artifact import DEFAULT_K

if TYPE_CHECKING:
    from sarsteer.data.pairs import Pairs
    from sarsteer.runtime.pool import Pool
    from sarsteer.runtime.shared import SharedModel
    from sarsteer.steering.artifact import Steering


def feasible_step(
    step: Step, plan: Plan, shared: SharedModel, pool: Pool, pairs: Pairs, steering: Steering, out: Path
) -> tuple[Step, list[Note]]:
    """The step without defenses that this model or these pairs do not allow, and notes that say why."""
    ks = {spec: defense.k for spec in step.defenses if isinstance(defense := DEFENSES.parse(spec), SarsteerDefense)}
    left_out: dict[str, str] = {}
    for spec, k in ks.items():
        if k is not None and k > steering.max_k:
            left_out[spec] = f"the safe activations have rank {steering.max_k}"
    if "c2r" in step.defenses:
        why = _without_refusals(step, plan, shared, pool, pairs, out)
        if why:
            left_out["c2r"] = why
    kept = tuple(spec for spec in step.defenses if spec not in left_out)
    notes = [Note(f"is left out: {why}", "left_out", spec) for spec, why in left_out.items()]
    if steering.max_k < DEFAULT_K and any(spec in kept and k is None for spec, k in ks.items()):
        text = (
            f"with {step.pairs} calibration pairs k is {steering.max_k}, not {DEFAULT_K}: "
            f"the safe activations have rank {steering.max_k}"
        )
        notes.append(Note(text, "smaller_k"))
    if "h2s" in step.defenses and len(pairs) > step.pairs:
        text = f"h2s and c2r are computed from all {len(pairs)} pairs, the others from the first {step.pairs}"
        notes.append(Note(text, "pairs"))
    return replace(step, defenses=kept), notes


def _without_refusals(step: Step, plan: Plan, shared: SharedModel, pool: Pool, pairs: Pairs, out: Path) -> str:
    """Why c2r is impossible; empty if it is possible. Its vectors are cached for the evaluation."""
    from sarsteer.data.benchmarks import load_benchmark
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
