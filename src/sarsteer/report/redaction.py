"""Harmful answers: count them, and remove their text from results."""

from __future__ import annotations

from dataclasses import replace

from sarsteer.evaluation.results import Answer, Evaluation
from sarsteer.judges.base import Verdict

LEFT_OUT = "[left out]"


def is_sensitive(answer: Answer) -> bool:
    """Whether the answer complied with a harmful request, or may have because the verdict is unreadable."""
    return answer.label == "harmful" and answer.verdict.outcome in ("complied", None)


def sensitive(evaluation: Evaluation) -> int:
    """The number of harmful answers whose text is in ``evaluation``."""
    return sum(is_sensitive(a) and a.answer != LEFT_OUT for arm in evaluation.arms for a in arm.answers)


def redacted(evaluation: Evaluation) -> Evaluation:
    """The same numbers and verdicts without the text of harmful answers, or the judge's words, which may quote it."""
    arms = (replace(arm, answers=tuple(map(_without, arm.answers))) for arm in evaluation.arms)
    return replace(evaluation, arms=tuple(arms))


def _without(answer: Answer) -> Answer:
    if not is_sensitive(answer):
        return answer
    verdict = answer.verdict
    return replace(answer, answer=LEFT_OUT, verdict=Verdict(verdict.outcome, "", None, verdict.scores))
