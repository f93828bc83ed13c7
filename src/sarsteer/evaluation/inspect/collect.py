"""From Inspect's logs to an ``Evaluation``: its numbers depend only on what the logs contain."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.random_vectors import RandomVectors
from sarsteer.evaluation.arms import ArmTask
from sarsteer.evaluation.controls import notes_on_directions
from sarsteer.evaluation.inspect.logs import path_of, settings_of
from sarsteer.evaluation.inspect.scorers import judged_of, verdict_of
from sarsteer.evaluation.results import Answer, Arm, CurvePoint, Evaluation
from sarsteer.evaluation.summary import Summary, summarize
from sarsteer.evaluation.word_errors import WITHOUT_MISHEARD, WordErrors
from sarsteer.judges.base import JudgedAnswer

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

PACKAGES = ("sarsteer", "torch", "transformers", "inspect-ai", "numpy")


def collect(logs: Sequence[EvalLog], tasks: Sequence[ArmTask], word_errors: Sequence[WordErrors] = ()) -> Evaluation:
    """The results of finished logs. Command, layers and notes are left empty.

    Args:
        logs: as ``run_grid`` returns them.
        tasks: their arms, in the same order.
        word_errors: of benchmarks with altered clips; each gets a second table, without the misheard clips.

    """
    errors = {(one.benchmark, one.against): one for one in word_errors}
    arms: list[Arm] = []
    curve: list[CurvePoint] = []
    for benchmark in dict.fromkeys(task.benchmark.name for task in tasks):
        rows = [
            (log, task, _answers(log, task, _errors_of(task, errors)))
            for log, task in zip(logs, tasks, strict=True)
            if task.benchmark.name == benchmark
        ]
        undefended = next((answers for _, task, answers in rows if task.planned.name == "none"), None)
        random = {
            task.planned.control_of: answers
            for _, task, answers in rows
            if isinstance(task.planned.defense, RandomVectors)
        }
        table: list[Arm] = []
        misheard: dict[str, frozenset[str]] = {}
        for log, task, answers in rows:
            plain = undefended if task.planned.name != "none" else None
            summary = _summary(task.planned.name, answers, plain, random.get(task.planned.name))
            if task.planned.swept is None:
                if (own := _errors_of(task, errors)) is not None:
                    misheard[task.planned.name] = own.misheard
                table.append(_arm(log, task, answers, summary))
            elif task.defense.alpha is not None:
                curve.append(CurvePoint(benchmark, task.planned.swept, task.defense.alpha, summary))
        arms += table
        if misheard:
            arms += _without_misheard(table, misheard)
    judges = {content["judge"]: content["judge_signature"] for content in (settings_of(log)["content"] for log in logs)}
    return Evaluation(
        model=(logs[0].eval.metadata or {})["arm"]["model"],
        judge={"name": ", ".join(judges), "signature": ", ".join(judges.values())},
        command="",
        created=max(str(log.stats.completed_at) for log in logs),
        versions={name: _version(name) for name in PACKAGES},
        arms=tuple(arms),
        curve=tuple(curve),
    )


def _arm(log: EvalLog, task: ArmTask, answers: Sequence[Answer], summary: Summary) -> Arm:
    logged = settings_of(log)
    settings = {**logged["settings"], **logged["run"], **logged["content"], **_decoding(log)}
    return Arm(
        benchmark=task.benchmark.name,
        defense=task.planned.name,
        settings=settings,
        summary=summary,
        answers=tuple(answers),
        steering=task.defense.steering,
        log=str(path_of(log)),
        control_of=task.planned.control_of,
    )


def _errors_of(task: ArmTask, errors: Mapping[tuple[str, str], WordErrors]) -> WordErrors | None:
    return errors.get((task.benchmark.name, task.benchmark.against))


def _without_misheard(table: Sequence[Arm], misheard: Mapping[str, frozenset[str]]) -> list[Arm]:
    """The arms as if the misheard clips, by the defense's name, had not been asked; none if all were misheard."""
    understood = [[answer for answer in arm.answers if answer.id not in misheard.get(arm.defense, ())] for arm in table]
    undefended = next((rest for arm, rest in zip(table, understood, strict=True) if arm.defense == "none"), None)
    random = {
        arm.control_of: rest
        for arm, rest in zip(table, understood, strict=True)
        if arm.settings.get("kind") == RandomVectors.name
    }
    return [
        replace(
            arm,
            benchmark=arm.benchmark + WITHOUT_MISHEARD,
            summary=_summary(
                arm.defense,
                rest,
                _same_requests(undefended, rest) if arm.defense != "none" else None,
                _same_requests(random.get(arm.defense), rest),
            ),
            answers=tuple(rest),
        )
        for arm, rest in zip(table, understood, strict=True)
        if rest
    ]


def _same_requests(others: list[Answer] | None, answers: Sequence[Answer]) -> list[Answer] | None:
    """``others``, if they can be paired: an adaptive attack makes other clips for each defense, misheard or not."""
    same = others is not None and [one.id for one in others] == [one.id for one in answers]
    return others if same else None


def _summary(
    name: str, answers: Sequence[Answer], undefended: Sequence[Answer] | None, random: Sequence[Answer] | None
) -> Summary:
    items = [
        JudgedAnswer(
            one.question, one.answer, one.label, category=one.category, id=one.id, cluster=one.cluster, pair=one.pair
        )
        for one in answers
    ]
    plain, control = (None if others is None else [one.verdict for one in others] for others in (undefended, random))
    summary = summarize([one.verdict for one in answers], items, plain, control)
    return replace(summary, notes=(*summary.notes, *notes_on_directions(name, answers)))


def _answers(log: EvalLog, task: ArmTask, errors: WordErrors | None) -> list[Answer]:
    wer: Mapping[str, float] = {} if errors is None else errors.wer
    order = {item.id: place for place, item in enumerate(task.benchmark.items)}
    answers = []
    for sample in sorted(log.samples or (), key=lambda sample: order[str(sample.id)]):
        (score,) = (sample.scores or {}).values()
        item = judged_of(sample.id, sample.metadata, sample.output.completion)
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
                audio=sample.metadata.get("audio"),
                text=sample.metadata.get("text"),
                wer=wer.get(str(sample.id)),
                direction=(sample.output.metadata or {}).get("direction"),
            )
        )
    return answers


def _decoding(log: EvalLog) -> dict[str, Any]:
    for sample in log.samples or ():
        return {"decoding": (sample.output.metadata or {}).get("decoding"), "system_prompt": None}
    return {}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
