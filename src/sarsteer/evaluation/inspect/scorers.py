"""Our judges as an Inspect scorer, and our rates as its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState

from sarsteer.evaluation.summary import summarise
from sarsteer.judges import Judged, Verdict
from sarsteer.stats.estimate import Estimate

UNREADABLE = "unreadable"
SCORES = ("answer", "answer_first", "answer_second", "reference", "position_bias")
"""Of a judge that scores, in both orders."""
RATES = ("asr", "rr_harmful", "rr_safe", "brr", "broken", "unreadable")


@metric(scores="unreduced")  # outcomes are words: there is no mean of them
def rates() -> Metric:
    """``asr``, ``rr_harmful``, ``rr_safe``, ``brr``, ``broken``, ``unreadable``, each with ``_low``, ``_high``, ``_n``.

    One metric for all, since two grouped ones in a scorer would overwrite each other. Wilson intervals; BRR's is a
    bootstrap over pairs.
    """

    def compute(scores: list[SampleScore]) -> dict[str, int | float]:
        if not scores:
            return {}
        items = [judged_of(one.sample_id, one.sample_metadata or {}, one.score.answer or "") for one in scores]
        found = summarise([verdict_of(one.score) for one in scores], items)
        told: dict[str, int | float] = {}
        for name in RATES:
            estimate: Estimate | None = getattr(found, name)
            if estimate is not None:
                told |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
                told[f"{name}_n"] = estimate.n
        for name in SCORES if found.scores is not None else ():
            score: Estimate | None = getattr(found.scores, name)
            if score is not None:
                told |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high, f"{name}_n": score.n}
        return told

    return compute


@scorer(metrics=[rates()])
def judged(judge: str) -> Scorer:
    """The outcome that ``judge`` tells: ``complied``, ``refused``, ``safe_answer``, ``broken``, or ``unreadable``.

    Of a judge that scores, the answer's mean score.
    """
    from sarsteer.runtime.shared import shared_judge

    shared = shared_judge(judge)

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        verdict = await shared.ask(judged_of(state.sample_id, state.metadata, answer, target.text))
        return Score(
            value=verdict.outcome or _mean_score(verdict),
            answer=answer,
            explanation=verdict.reason or verdict.raw or None,
            metadata={"verdict": asdict(verdict), "judge": shared.judge.signature},
        )

    return score


def _mean_score(verdict: Verdict) -> str | float:
    """The answer's mean score over the orders that could be read, where the judge scored."""
    found = [score for name, score in (verdict.scores or {}).items() if name.startswith("answer")]
    return sum(found) / len(found) if found else UNREADABLE


def judged_of(sample_id: Any, metadata: Mapping[str, Any], answer: str, reference: str | None = None) -> Judged:
    """What a judge and a summary look at, of a logged sample."""
    return Judged(
        question=metadata["question"],
        answer=answer,
        label=metadata["label"],
        reference=reference or None,
        category=metadata.get("category"),
        description=metadata.get("description"),
        id=str(sample_id),
        cluster=metadata.get("cluster"),
        pair=metadata.get("pair"),
    )


def verdict_of(score: Score) -> Verdict:
    """The verdict as the judge gave it."""
    return Verdict(**(score.metadata or {})["verdict"])
