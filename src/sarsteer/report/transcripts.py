"""Requests with the answer of every defense, as data: the page's script shows a few at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sarsteer.evaluation.results import Answer, Arm, Evaluation
from sarsteer.report.clips import Clips


def transcripts(evaluation: Evaluation, clips: Clips) -> list[dict[str, Any]]:
    """The defenses of each benchmark, and its requests in order."""
    names = dict.fromkeys(arm.benchmark for arm in evaluation.arms)
    return [_benchmark(name, [arm for arm in evaluation.arms if arm.benchmark == name], clips) for name in names]


def _benchmark(name: str, arms: list[Arm], clips: Clips) -> dict[str, Any]:
    answers_of = [_numbered(arm) for arm in arms]
    order = dict.fromkeys(key for answers in answers_of for key in answers)
    shared = [_shared_text(arm) for arm in arms]
    return {
        "name": name,
        "defenses": [arm.defense for arm in arms],
        "instructions": _instructions(arms, shared),
        "requests": [_request([answers.get(key) for answers in answers_of], shared, clips) for key in order],
    }


def _shared_text(arm: Arm) -> str | None:
    """The instruction, if all clips of an arm have the same one: it is shown once."""
    texts = {answer.text for answer in arm.answers}
    return next(iter(texts)) if len(texts) == 1 else None


def _instructions(arms: list[Arm], shared: list[str | None]) -> list[str]:
    lines = []
    for text in dict.fromkeys(text for text in shared if text):
        under = [arm.defense for arm, instruction in zip(arms, shared, strict=True) if instruction == text]
        lines.append(f"“{text}”" + ("" if len(under) == len(arms) else f" ({', '.join(under)})"))
    return lines


def _numbered(arm: Arm) -> dict[tuple[str, int], Answer]:
    """Answers by id, and by the number of times that the id occurred before."""
    seen: Counter[str] = Counter()
    answers = {}
    for answer in arm.answers:
        answers[answer.id, seen[answer.id]] = answer
        seen[answer.id] += 1
    return answers


def _request(answers: list[Answer | None], shared: list[str | None], clips: Clips) -> dict[str, Any]:
    first = next(answer for answer in answers if answer is not None)
    clip, why = clips.add(first.audio) if first.audio else (None, "")
    return {
        "id": first.id,
        "label": first.label,
        "category": first.category,
        "question": first.question,
        "transcript": first.transcript,
        "clip": clip,
        "no_clip": why,
        "answers": [
            None if answer is None else _answer(answer, text) for answer, text in zip(answers, shared, strict=True)
        ],
    }


def _answer(answer: Answer, shared: str | None) -> dict[str, Any]:
    data: dict[str, Any] = {"answer": answer.answer, "outcome": answer.verdict.outcome}
    if answer.verdict.reason:
        data["reason"] = answer.verdict.reason
    if answer.verdict.scores:
        data["scores"] = ", ".join(f"{name} {value:g}" for name, value in answer.verdict.scores.items())
    if answer.text and answer.text != shared:
        data["text"] = answer.text
    return data
