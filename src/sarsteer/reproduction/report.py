"""One report of a plan: its table beside the published figures, its ablation, its sensitivity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Arm, Evaluation
from sarsteer.evaluation.summary import Summary
from sarsteer.files import write_text
from sarsteer.report.environment import asset, environment
from sarsteer.report.table import SCORE_METRICS, Block, Metric, blocks
from sarsteer.reproduction.curves import LINES, curve
from sarsteer.reproduction.plan import Plan, Step, results_of
from sarsteer.reproduction.published import MODELS, SECOND_HAND, Figure, figure
from sarsteer.reproduction.run import load_results
from sarsteer.stats.estimate import Estimate

PAGE, TABLE_FILE = "reproduction.html", "reproduction.md"
SETTINGS = (("alpha", "α", 0.1), ("k", "k", 10.0), ("n", "n", 100.0), ("lambda", "λ", 1.0))
"""What is varied: its key, its sign, and the paper's value."""


@dataclass(frozen=True)
class Part:
    """A table of one benchmark, and what is published of its rows, one for each."""

    block: Block
    published: tuple[Figure | None, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The columns: rates or scores as they are; changes stand in each step's own report."""
        return tuple(metric for metric in self.block.metrics if not metric.change)

    @property
    def compared(self) -> bool:
        """Whether anything is published of it."""
        return any(one is not None for one in self.published)

    @property
    def told(self) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
        """Published columns: a title, and a number for each row."""
        if not self.compared:
            return ()
        keys = ("score",) if self.block.metrics is SCORE_METRICS else ("asr", "brr")
        titles = {"asr": "published ASR", "brr": "published BRR", "score": "published score"}
        found = {key: tuple(None if one is None else getattr(one, key) for one in self.published) for key in keys}
        return tuple((titles[key], values) for key, values in found.items() if any(v is not None for v in values))


@dataclass(frozen=True)
class Line:
    """Numbers over one setting."""

    sign: str
    standard: float
    points: tuple[tuple[float, Summary], ...]
    undefended: Estimate | None

    @property
    def picture(self) -> Markup:
        """Drawn."""
        return curve(self.sign, self.points, self.standard, self.undefended)


@dataclass(frozen=True)
class OfModel:
    """All that was found of one model."""

    name: str
    checkpoint: str
    judge: str
    table: tuple[Part, ...]
    ablation: tuple[Part, ...]
    lines: tuple[Line, ...]
    benchmark: str
    notes: tuple[Note, ...]
    commands: tuple[tuple[str, str], ...]
    files: tuple[str, ...]


def write_report(plan: Plan, out: Path) -> tuple[Path, Path]:
    """Write the page and the tables in Markdown, of all steps that are done."""
    found = of_models(plan, out)
    whole = not plan.setup.limit and all(results_of(step, out).is_file() for step in plan.steps)
    about = {
        "models": found,
        "setup": plan.setup,
        "lines": LINES,
        "second_hand": SECOND_HAND,
        "compared": any(part.compared for model in found for part in model.table),
        "whole": whole,
    }
    page, table = out / PAGE, out / TABLE_FILE
    template = environment("sarsteer.reproduction").get_template("reproduction.html")
    write_text(page, template.render(**about, style=asset("report.css")))
    from sarsteer.reproduction.markdown import markdown

    write_text(table, markdown(found, plan))
    return page, table


def of_models(plan: Plan, out: Path) -> list[OfModel]:
    """What the results say, model by model."""
    results = load_results(plan, out)
    return [
        _of_model(model, plan, out, {s: e for s, e in results.items() if s.model == model})
        for model in plan.setup.models
    ]


def _of_model(model: str, plan: Plan, out: Path, results: dict[Step, Evaluation]) -> OfModel:
    by_name = {step.name: (step, evaluation) for step, evaluation in results.items()}
    table, ablation = (_parts(model, by_name.get(name)) for name in ("table2", "ablation"))
    key = next((key for key, known in MODELS.items() if known.checkpoint == plan.setup.models[model]), model)
    first = next(iter(results.values()), None)
    return OfModel(
        name=key,
        checkpoint=plan.setup.models[model],
        judge=str(first.judge["name"]) if first is not None else "",
        table=table,
        ablation=ablation,
        lines=tuple(_lines(results)),
        benchmark=plan.setup.paired,
        notes=tuple(dict.fromkeys(note for evaluation in results.values() for note in evaluation.notes)),
        commands=tuple((step.name, evaluation.command) for step, evaluation in results.items()),
        files=tuple(str(results_of(step, out)) for step in results),
    )


def _parts(model: str, found: tuple[Step, Evaluation] | None) -> tuple[Part, ...]:
    if found is None:
        return ()
    step, evaluation = found
    key = next((k for k, known in MODELS.items() if known.checkpoint.rpartition("/")[2] == model or k == model), model)
    return tuple(
        Part(block, tuple(figure(key, row.arm.defense, column) for row in block.rows))
        for column, block in zip(step.benchmarks, blocks(evaluation), strict=True)
    )


def _lines(results: dict[Step, Evaluation]) -> list[Line]:
    """The arms of all steps, sorted by which setting they vary; SARSteer itself is a point of each line."""
    found: dict[str, dict[float, Summary]] = {key: {} for key, _, _ in SETTINGS}
    undefended = None
    varied = {step: evaluation for step, evaluation in results.items() if step.part != "table2"}
    main = max((step.pairs for step in results), default=0)
    for step, evaluation in varied.items():
        for arm in evaluation.arms:
            kind, key = _kind(arm)
            if arm.defense == "none":
                undefended = arm.summary.asr
            elif kind == "refusal-steering":
                found["lambda"][0.0] = arm.summary
            elif kind == "sarsteer" and key is None and step.pairs == main:
                for name in found:
                    found[name][_value(arm, name, step)] = arm.summary
            elif kind == "sarsteer":
                found[key or "n"][_value(arm, key or "n", step)] = arm.summary
    return [
        Line(sign, standard, tuple(sorted(found[key].items(), key=lambda point: point[0])), undefended)
        for key, sign, standard in SETTINGS
        if len(found[key]) > 1
    ]


def _kind(arm: Arm) -> tuple[str, str | None]:
    kind, _, option = arm.defense.partition(":")
    return kind, option.partition("=")[0] or None


def _value(arm: Arm, name: str, step: Step) -> float:
    return float(step.pairs if name == "n" else arm.settings[name])
