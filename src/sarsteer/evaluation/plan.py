"""What an evaluation is asked to do: the command line, parsed once into typed values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sarsteer.data.benchmarks import BenchmarkSpec
from sarsteer.defenses.base import Requirement
from sarsteer.defenses.registry import DEFENSES
from sarsteer.defenses.steered import SteeredDefense
from sarsteer.errors import EvaluationError
from sarsteer.evaluation.attack_choice import PlannedAttack, parse_attacks
from sarsteer.evaluation.controls import PlannedDefense, with_controls
from sarsteer.evaluation.judge_choice import PlannedJudge, parse_judges
from sarsteer.steering.strength import Strength


@dataclass(frozen=True)
class EvaluationPlan:
    """One run: every request of every benchmark under every defense.

    Attributes:
        model: ``sarsteer-tiny``, a folder, a name on the Hub, or ``openai/NAME``.
        benchmarks: what to ask.
        defenses: no defense first, then the others, controls, points of curves.
        out: the folder for logs and vectors.
        judges: who reads the answers; each benchmark's default if empty.
        steering: the steering file.
        audio_root: the folder that contains the clips of manifests, if it is not the manifest's own.
        calibration: the pairs that the steering was calibrated on, for h2s and c2r and to compare with the benchmarks.
        strength: of steered defenses that do not set their own.
        limit: use only the first requests of each benchmark.
        instruction: the text beside clips that have none; the paper's by default.
        max_new_tokens: maximum length of an answer.
        batch_size: requests per forward.
        max_wer: word error rate above which an altered clip counts as misheard; None to measure none.
        loading: how the model is loaded: ``device``, ``dtype``, ``revision``, ``layers``, ``trust_remote_code``.
        command: the command that asked for it, for the report.
        attacks: each benchmark is run as it is, and under each of these.
        seed: of the attacks.
        abliterate: the attacker has removed the steering file's refusal direction from the model's weights.

    """

    model: str
    benchmarks: tuple[BenchmarkSpec, ...]
    defenses: tuple[PlannedDefense, ...]
    out: Path
    judges: tuple[PlannedJudge, ...] = ()
    audio_root: Path | None = None
    steering: Path | None = None
    calibration: str | None = None
    strength: Strength = field(default_factory=Strength)
    limit: int | None = None
    instruction: str | None = None
    max_new_tokens: int = 256
    batch_size: int = 16
    max_wer: float | None = None
    loading: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    attacks: tuple[PlannedAttack, ...] = ()
    seed: int = 0
    abliterate: bool = False


def parse_plan(
    model: str,
    benchmarks: Sequence[str],
    defenses: Sequence[str],
    out: Path,
    *,
    judges: Sequence[str] = (),
    alpha_sweep: Sequence[float] = (),
    audio_root: Path | None = None,
    steering: Path | None = None,
    calibration: str | None = None,
    strength: Strength | None = None,
    limit: int | None = None,
    instruction: str | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    max_wer: float | None = None,
    controls: bool = True,
    loading: Mapping[str, Any] | None = None,
    command: str = "",
    attacks: Sequence[str] = (),
    curves: bool = False,
    seed: int = 0,
    abliterate: bool = False,
) -> EvaluationPlan:
    """Parse specs, and check everything that needs no file; see ``EvaluationPlan``.

    Benchmarks, defenses and judges are specs, such as ``figstep:FOLDER``, ``sarsteer:alpha=0.2`` and ``keywords``; a
    judge can also be ``BENCHMARK=SPEC``. ``alpha_sweep`` gives further strengths of each steered defense, as points of
    curves. ``controls`` adds the controls of one steered defense, see ``controls.with_controls``. Values of ``loading``
    that are None are left out. ``attacks`` are specs, such as ``noise:snr=5``; ``curves`` runs each audio transform
    along its axis. ``abliterate`` removes the steering file's refusal direction from the weights, for all arms.

    Raises:
        SarsteerError: a spec is unknown or invalid, occurs twice, or requires something that is missing.

    """
    if not benchmarks:
        raise EvaluationError("there is no benchmark; pass --benchmark")
    if max_wer is not None and not (math.isfinite(max_wer) and max_wer >= 0):
        raise EvaluationError(f"--max-wer must be 0 or more, not {max_wer:g}; 0.5 means every other word")
    if abliterate and steering is None:
        raise EvaluationError("abliterated weights need the refusal direction of a steering file; pass --steering FILE")
    available = {Requirement.ACTIVATIONS}  # unknown before the model is loaded
    available |= {Requirement.STEERING} if steering is not None else set()
    available |= {Requirement.PAIRS} if calibration is not None else set()
    return EvaluationPlan(
        model=model,
        benchmarks=tuple(map(BenchmarkSpec.parse, benchmarks)),
        defenses=_parse_defenses(defenses, alpha_sweep, available, controls),
        out=out,
        judges=parse_judges(judges),
        audio_root=audio_root,
        steering=steering,
        calibration=calibration,
        strength=strength or Strength(),
        limit=limit,
        instruction=instruction,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        max_wer=max_wer,
        loading={name: value for name, value in (loading or {}).items() if value is not None},
        command=command,
        attacks=parse_attacks(attacks, curves=curves),
        seed=seed,
        abliterate=abliterate,
    )


def _parse_defenses(
    specs: Sequence[str], alpha_sweep: Sequence[float], available: set[Requirement], controls: bool
) -> tuple[PlannedDefense, ...]:
    rows = [PlannedDefense(spec, DEFENSES.parse(spec)) for spec in specs]
    rows.sort(key=lambda row: row.defense.name != "none")  # the others are compared with it
    points = [
        PlannedDefense(DEFENSES.spec_of(point), point, row.name)
        for row in rows
        if isinstance(row.defense, SteeredDefense)
        for point in map(row.defense.at_alpha, alpha_sweep)
    ]
    for row in rows:
        row.defense.check(available)
    planned = (*with_controls(rows, available, add=controls), *points)
    names = [one.name for one in planned]
    for one in planned:
        if names.count(one.name) > 1:
            raise EvaluationError(f"defense {one.name!r} occurs twice; pass it once, or at another strength")
        one.defense.check(available)
    return planned
