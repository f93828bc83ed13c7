"""Judges: decide what an answer is, by its words, with a classifier, or with a model and a rubric."""

from __future__ import annotations

from sarsteer.judges.base import Judge, JudgedAnswer, JudgeStopped, Outcome, Verdict
from sarsteer.judges.judge_all import judge_all
from sarsteer.judges.registry import JUDGES, parse_judge

__all__ = [
    "JUDGES",
    "Judge",
    "JudgeStopped",
    "JudgedAnswer",
    "Outcome",
    "Verdict",
    "judge_all",
    "parse_judge",
]
