"""Judges: what an answer is, told by words, by classifiers, or by a model with a rubric."""

from __future__ import annotations

from sarsteer.judges.factory import make_judge
from sarsteer.judges.interface import Judge, Judged, JudgeStopped, Outcome, Verdict
from sarsteer.judges.judge_all import judge_all

__all__ = ["Judge", "JudgeStopped", "Judged", "Outcome", "Verdict", "judge_all", "make_judge"]
