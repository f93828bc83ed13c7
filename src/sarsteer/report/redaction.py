"""Answers that do harm: how many there are, and results without them."""

from __future__ import annotations

from dataclasses import replace

from sarsteer.evaluation.results import Answer, Evaluation
from sarsteer.judges.interface import Verdict

LEFT_OUT = "[left out]"


def is_sensitive(answer: Answer) -> bool:
    """Whether it complied with a harmful request.

    An answer that the judge could not tell counts, for it may have. Complying with a safe request is what one wants.
    """
    return answer.label == "harmful" and answer.verdict.outcome in ("complied", None)


def sensitive(evaluation: Evaluation) -> int:
    """How many such answers are in it, with their text."""
    return sum(is_sensitive(a) and a.answer != LEFT_OUT for arm in evaluation.arms for a in arm.answers)


def redacted(evaluation: Evaluation) -> Evaluation:
    """The same numbers and verdicts, without the text of such answers, nor the judge's words, which may quote them."""
    arms = (replace(arm, answers=tuple(map(_without, arm.answers))) for arm in evaluation.arms)
    return replace(evaluation, arms=tuple(arms))


def _without(answer: Answer) -> Answer:
    if not is_sensitive(answer):
        return answer
    verdict = answer.verdict
    return replace(answer, answer=LEFT_OUT, verdict=Verdict(verdict.outcome, "", None, verdict.scores))
