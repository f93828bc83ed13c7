"""From Inspect's logs to an ``Evaluation``; nothing that is not in the logs goes into its numbers."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sarsteer.evaluation.inspect.grid import Arm as GridArm
from sarsteer.evaluation.inspect.logs import path_of, settings_of
from sarsteer.evaluation.inspect.scorers import judged_of, verdict_of
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Answer, Arm, CurvePoint, Evaluation
from sarsteer.evaluation.summary import summarise
from sarsteer.judges import Judged

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

PACKAGES = ("sarsteer", "torch", "transformers", "inspect-ai", "numpy")


def collect(
    logs: Sequence[EvalLog],
    arms: Sequence[GridArm],
    *,
    command: str,
    layers: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[Note] = (),
) -> Evaluation:
    """The results of finished logs, one for each arm.

    Args:
        logs: as ``run_grid`` returns them.
        arms: what they are of, in the same order.
        command: what made them.
        layers: of the steering file.
        notes: what a reader must know.

    """
    rows = [_rows(log, arm) for log, arm in zip(logs, arms, strict=True)]
    undefended = {
        arm.benchmark.name: [answer.verdict for answer in answers]
        for arm, (answers, _) in zip(arms, rows, strict=True)
        if arm.defense.name == "none"
    }
    table: list[Arm] = []
    curve: list[CurvePoint] = []
    for log, arm, (answers, judged) in zip(logs, arms, rows, strict=True):
        name, defense = arm.benchmark.name, arm.defense.name
        plain = undefended.get(name) if defense != "none" else None
        summary = summarise([answer.verdict for answer in answers], judged, plain)
        if arm.sweep is not None:
            curve.append(CurvePoint(name, arm.base, arm.sweep, summary))
            continue
        told = settings_of(log)
        settings = {**told["settings"], **told["run"], **told["content"], **_decoding(log)}
        table.append(Arm(name, defense, settings, summary, tuple(answers), arm.defense.steering, str(path_of(log))))
    judges = {told["judge"]: told["judge_signature"] for told in (settings_of(log)["content"] for log in logs)}
    return Evaluation(
        model=(logs[0].eval.metadata or {})["arm"]["model"],
        judge={"name": ", ".join(judges), "signature": ", ".join(judges.values())},
        command=command,
        created=max(str(log.stats.completed_at) for log in logs),
        versions={name: _version(name) for name in PACKAGES},
        arms=tuple(table),
        curve=tuple(curve),
        layers=tuple(layers),
        notes=tuple(notes),
    )


def _rows(log: EvalLog, arm: GridArm) -> tuple[list[Answer], list[Judged]]:
    order = {item.id: place for place, item in enumerate(arm.benchmark.items)}
    answers, judged = [], []
    for sample in sorted(log.samples or (), key=lambda sample: order[str(sample.id)]):
        about = sample.metadata
        (score,) = (sample.scores or {}).values()
        item = judged_of(sample.id, about, sample.output.completion, str(sample.target) or None)
        judged.append(item)
        answers.append(
            Answer(
                id=str(sample.id),
                question=item.question,
                label=item.label,
                answer=item.answer,
                verdict=verdict_of(score),
                category=item.category,
                pair=item.pair,
                cluster=item.cluster,
                audio=about.get("audio"),
                text=about.get("text"),
            )
        )
    return answers, [replace(item, reference=None) for item in judged]


def _decoding(log: EvalLog) -> dict[str, Any]:
    return next(
        (
            {"decoding": (sample.output.metadata or {}).get("decoding"), "system_prompt": None}
            for sample in log.samples or ()
        ),
        {},
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
