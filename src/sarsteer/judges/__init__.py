"""Judges: decide what an answer is, by its words, with a classifier, or with a model and a rubric."""

from __future__ import annotations

from sarsteer.judges.base import Judge, JudgedAnswer, JudgeStopped, Outcome, Verdict
from sarsteer.judges.judge_all import judge_all
from sarsteer.judges.registry import JUDGES, parse_judge

Judged = JudgedAnswer  # the old name, until all callers use the new one


def make_judge(spec: str) -> Judge:
    """The old ``parse_judge``, until all callers use the new one; it also loads the judge."""
    judge = parse_judge(spec)
    judge.load()
    return judge


__all__ = [
    "JUDGES",
    "Judge",
    "JudgeStopped",
    "Judged",
    "JudgedAnswer",
    "Outcome",
    "Verdict",
    "judge_all",
    "make_judge",
    "parse_judge",
]
