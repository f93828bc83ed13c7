"""The results of a plan by model: the main table with reported figures, the ablation, and curves over one setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from sarsteer.defenses import DEFENSES
from sarsteer.defenses.none import NoDefense
from sarsteer.defenses.refusal_steering import RefusalSteering
from sarsteer.defenses.sarsteer import SarsteerDefense
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Evaluation
from sarsteer.evaluation.summary import Summary
from sarsteer.report.table import SCORE_METRICS, Block, Metric, blocks
from sarsteer.reproduction.paper_models import key_of
from sarsteer.reproduction.plan import Plan, Step, results_of
from sarsteer.reproduction.published import Figure, Source, figure, sources
from sarsteer.reproduction.setting_chart import setting_chart
from sarsteer.stats.estimate import Estimate

SETTINGS = (("alpha", "α", 0.1), ("k", "k", 10.0), ("n", "n", 100.0), ("lambda", "λ", 1.0))
"""The settings that vary: key, symbol and the paper's value."""


@dataclass(frozen=True)
class ReportedTable:
    """The table of one benchmark, with the reported figures of each row."""

    block: Block
    figures: tuple[Figure | None, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The columns: rates or scores, and gains over random. Other changes are in the report of each step."""
        return tuple(metric for metric in self.block.metrics if not metric.change or not metric.always)

    @property
    def reported(self) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
        """Columns of reported figures: a title, and a number for each row."""
        keys = ("score",) if self.block.metrics is SCORE_METRICS else ("asr", "brr")
        titles = {"asr": "reported ASR", "brr": "reported BRR", "score": "reported score"}
        columns = {key: tuple(None if f is None else getattr(f, key) for f in self.figures) for key in keys}
        return tuple((titles[key], column) for key, column in columns.items() if any(v is not None for v in column))


@dataclass(frozen=True)
class SettingCurve:
    """Results at several values of one setting."""

    symbol: str
    standard: float
    points: tuple[tuple[float, Summary], ...]
    undefended: Estimate | None

    @property
    def chart(self) -> Markup:
        """Rates over the setting, as SVG."""
        return setting_chart(self.symbol, self.points, self.standard, self.undefended)


@dataclass(frozen=True)
class ModelReport:
    """All results of one model."""

    name: str
    checkpoint: str
    judge: str
    table: tuple[ReportedTable, ...]
    ablation: tuple[ReportedTable, ...]
    curves: tuple[SettingCurve, ...]
    benchmark: str
    notes: tuple[Note, ...]
    commands: tuple[tuple[str, str], ...]
    files: tuple[str, ...]

    @property
    def sources(self) -> list[Source]:
        """The sources of the reported figures."""
        return sources(f for table in (*self.table, *self.ablation) for f in table.figures)


def model_reports(plan: Plan, out: Path) -> list[ModelReport]:
    """The finished results of a plan, a report per model."""
    results = {s: Evaluation.load(results_of(s, out)) for s in plan.steps if results_of(s, out).is_file()}
    return [
        _model_report(model, plan, out, {s: e for s, e in results.items() if s.model == model})
        for model in plan.setup.models
    ]


def _model_report(model: str, plan: Plan, out: Path, results: dict[Step, Evaluation]) -> ModelReport:
    by_name = {step.name: (step, evaluation) for step, evaluation in results.items()}
    key = key_of(plan.setup.models[model]) or model
    table, ablation = (_tables(key, by_name.get(name)) for name in ("table2", "ablation"))
    first = next(iter(results.values()), None)
    return ModelReport(
        name=key,
        checkpoint=plan.setup.models[model],
        judge=str(first.judge["name"]) if first is not None else "",
        table=table,
        ablation=ablation,
        curves=tuple(_curves(results)),
        benchmark=plan.setup.paired,
        notes=tuple(
            dict.fromkeys(
                note
                for step, evaluation in results.items()
                for note in evaluation.notes
                if note.kind != "controls" or step.part == "table2"  # the other parts have none on purpose
            )
        ),
        commands=tuple((step.name, evaluation.command) for step, evaluation in results.items()),
        files=tuple(str(results_of(step, out)) for step in results),
    )


def _tables(key: str, result: tuple[Step, Evaluation] | None) -> tuple[ReportedTable, ...]:
    if result is None:
        return ()
    step, evaluation = result
    return tuple(
        ReportedTable(block, tuple(figure(key, row.arm.defense, column) for row in block.rows))
        for column, block in zip(step.benchmarks, blocks(evaluation), strict=True)
    )


def _curves(results: dict[Step, Evaluation]) -> list[SettingCurve]:
    """The arms of all steps by the setting that they vary. SARSteer with the paper's settings is on every curve."""
    points: dict[str, dict[float, Summary]] = {key: {} for key, _, _ in SETTINGS}
    undefended = None
    varied = {step: evaluation for step, evaluation in results.items() if step.part != "table2"}
    main = max((step.pairs for step in results), default=0)
    for step, evaluation in varied.items():
        for arm in evaluation.arms:
            defense = DEFENSES.parse(arm.defense)
            if isinstance(defense, NoDefense):
                undefended = arm.summary.asr
            elif isinstance(defense, RefusalSteering):
                points["lambda"][0.0] = arm.summary
            elif isinstance(defense, SarsteerDefense):
                for key in _varied(defense) or (points if step.pairs == main else ("n",)):
                    points[key][float(step.pairs if key == "n" else arm.settings[key])] = arm.summary
    return [
        SettingCurve(symbol, standard, tuple(sorted(points[key].items(), key=lambda point: point[0])), undefended)
        for key, symbol, standard in SETTINGS
        if len(points[key]) > 1
    ]


def _varied(defense: SarsteerDefense) -> tuple[str, ...]:
    """The setting that differs from the paper's; none for SARSteer with the paper's settings."""
    settings = {"alpha": defense.alpha, "k": defense.k, "lambda": defense.lambda_}
    return tuple(name for name, value in settings.items() if value is not None)
