"""The plan of the paper's experiments: every arm of the main table, the ablation and the sensitivity, in steps.

A step is one run of ``sarsteer evaluate``. Steps with the same steering share a folder, so that an arm that two steps
need (no defense, SARSteer with the paper's settings) is answered once.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sarsteer.defenses import DEFENSES, Requirement
from sarsteer.errors import EvaluationError, did_you_mean
from sarsteer.evaluation.controls import PlannedDefense, with_controls
from sarsteer.judges.registry import parse_judge
from sarsteer.reproduction.paper_models import MODELS

PARTS = ("table2", "ablation", "sensitivity")
TABLE = ("none", "prompt:ada", "prompt:harm-check", "h2s", "c2r", "sarsteer")
"""The paper's rows: no defense; prompts in the style of AdaShield and FSD, in our wording; MDSteer's two; SARSteer."""
ABLATION = ("none", "refusal-steering", "mean-ablation", "sarsteer")
LAMBDAS = (0.25, 0.5, 0.75, 1.5)
ALPHAS = (0.05, 0.075, 0.125, 0.15)
KS = (5, 15, 25, 35, 45)
NS = (10, 25, 50, 75)
"""Besides the paper's settings λ = 1, α = 0.1, k = 10 and n = 100."""
BENCHMARKS = ("figstep", "sorry_bench", "ajailbench", "advbench", "air_bench_chat")
SCORED = "air_bench_chat"
TWINS = ("figstep", "advbench", "embedded")
"""Benchmarks with safe twins, which show over-refusal. The first one in a setup has ablation and sensitivity."""


@dataclass(frozen=True)
class Setup:
    """What the user chose. All runs into one folder must have the same setup.

    Attributes:
        models: the checkpoint of each model, by the name of its folder.
        benchmarks: the spec of each column, by the name of the column.
        calibration: the pairs, as for ``sarsteer evaluate --calibration``.
        pairs: the number of pairs that SARSteer is calibrated on; the sensitivity to n uses fewer.
        judges: specs of the judges.
        limit: maximum number of requests per benchmark.
        max_new_tokens: maximum length of an answer.
        dtype: of the models.
        controls: whether the main table has controls: random directions, reversed vectors, shuffled labels.

    """

    models: Mapping[str, str]
    benchmarks: Mapping[str, str]
    calibration: str
    pairs: int = 100
    judges: tuple[str, ...] = ()
    limit: int | None = None
    max_new_tokens: int = 256
    dtype: str | None = None
    controls: bool = True

    @property
    def paired(self) -> str:
        """The column that ablation and sensitivity use."""
        return next((name for name in TWINS if name in self.benchmarks), next(iter(self.benchmarks)))


@dataclass(frozen=True)
class Step:
    """One run of ``sarsteer evaluate``.

    Attributes:
        model: the name of the model's folder.
        part: one of ``PARTS``.
        name: of the results file.
        pairs: the number of calibration pairs.
        benchmarks: names of columns.
        defenses: specs.
        controls: whether controls are added.

    """

    model: str
    part: str
    name: str
    pairs: int
    benchmarks: tuple[str, ...]
    defenses: tuple[str, ...]
    controls: bool = False

    @property
    def arms(self) -> tuple[str, ...]:
        """The defenses with their controls, by name."""
        rows = [PlannedDefense(spec, DEFENSES.parse(spec)) for spec in self.defenses]
        return tuple(row.name for row in with_controls(rows, set(Requirement), add=self.controls))


@dataclass(frozen=True)
class Plan:
    """A setup and its steps, in order."""

    setup: Setup
    steps: tuple[Step, ...] = field(default=())

    @property
    def arms(self) -> int:
        """The number of different arms: one benchmark under one defense with one steering."""
        return len({(s.model, s.pairs, b, d) for s in self.steps for b in s.benchmarks for d in s.arms})


def make_plan(setup: Setup, parts: Sequence[str] = PARTS) -> Plan:
    """The steps of ``parts`` for each model.

    Raises:
        EvaluationError: a part is unknown, or there is no model, no benchmark or only one pair.

    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise EvaluationError(f"--only {unknown[0]!r}: use one of {', '.join(PARTS)}" + did_you_mean(unknown[0], PARTS))
    if not setup.models or not setup.benchmarks:
        raise EvaluationError("there is no model or no benchmark; give at least one of each")
    if setup.pairs < 2:
        raise EvaluationError(f"--pairs {setup.pairs}: calibration needs at least 2 pairs (the paper: 100)")
    return Plan(setup, tuple(step for model in setup.models for step in _steps(setup, model, parts)))


def _steps(setup: Setup, model: str, parts: Sequence[str]) -> Iterator[Step]:
    paired = (setup.paired,)
    if "table2" in parts:
        yield Step(model, "table2", "table2", setup.pairs, tuple(setup.benchmarks), TABLE, setup.controls)
    if "ablation" in parts:
        lambdas = tuple(f"sarsteer:lambda={value:g}" for value in LAMBDAS)
        yield Step(model, "ablation", "ablation", setup.pairs, paired, (*ABLATION, *lambdas))
    if "sensitivity" in parts:
        alphas = tuple(f"sarsteer:alpha={value:g}" for value in ALPHAS)
        ks = tuple(f"sarsteer:k={value}" for value in KS if value < setup.pairs)  # n centered rows have rank n − 1
        yield Step(model, "sensitivity", "sensitivity", setup.pairs, paired, ("none", "sarsteer", *alphas, *ks))
        for n in NS:
            if n < setup.pairs:
                yield Step(model, "sensitivity", f"pairs-{n}", n, paired, ("sarsteer",))


def folder_of(step: Step, out: Path) -> Path:
    """The folder of a step's logs; steps with the same steering share it."""
    return out / step.model / f"pairs-{step.pairs}"


def results_of(step: Step, out: Path) -> Path:
    """The results file of a step."""
    return out / step.model / f"{step.name}.json"


def steering_of(step: Step, out: Path) -> Path:
    """The steering file of a step."""
    return folder_of(step, out) / "steering.safetensors"


def judges_of(step: Step, setup: Setup) -> tuple[str, ...]:
    """The judges of a step; a judge that scores is left out if no benchmark of the step is scored."""
    return tuple(spec for spec in setup.judges if SCORED in step.benchmarks or not parse_judge(spec).scoring)


def command_of(step: Step, setup: Setup, out: Path) -> str:
    """The ``sarsteer evaluate`` command that gives the numbers of a step."""
    parts = ["sarsteer", "evaluate", setup.models[step.model]]
    for name in step.benchmarks:
        parts += ["--benchmark", setup.benchmarks[name]]
    for spec in step.defenses:
        parts += ["--defense", spec]
    parts += ["--steering", str(steering_of(step, out)), "--calibration", setup.calibration]
    for spec in judges_of(step, setup):
        parts += ["--judge", spec]
    for option, value in (
        ("--limit", setup.limit),
        ("--max-new-tokens", setup.max_new_tokens),
        ("--dtype", setup.dtype),
    ):
        if value is not None:
            parts += [option, str(value)]
    if not step.controls:
        parts.append("--no-controls")
    if any(known.checkpoint == setup.models[step.model] and known.remote_code for known in MODELS.values()):
        parts.append("--trust-remote-code")
    return shlex.join(parts)
