"""MDSteer-c2r, a baseline of the paper: from requests that the model complies with to those that it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.mean_difference import MeanDifference, last_token_activations
from sarsteer.errors import CalibrationError
from sarsteer.prompts import INSTRUCTION

if TYPE_CHECKING:
    import torch

    from sarsteer.judges import Judge


@dataclass(frozen=True)
class ComplianceToRefusal(MeanDifference):
    """Mean activation of refused requests minus that of requests complied with, raw."""

    name: ClassVar[str] = "c2r"

    def judge_signature(self, context: DefenseContext) -> str:
        """The judge decides which requests are refused."""
        return _judge(context).signature

    def vectors(self, context: DefenseContext) -> torch.Tensor:
        """From the activations of the pairs' requests, after the model has answered them.

        Raises:
            CalibrationError: the model refuses all requests, or none.

        """
        from sarsteer.judges import JudgedAnswer, judge_all
        from sarsteer.steering.baselines import c2r

        assert context.pairs is not None
        items, judge = [*context.pairs.harmful, *context.pairs.safe], _judge(context)
        answers = context.model.generate([item.turn(INSTRUCTION) for item in items], batch_size=context.batch_size)
        judged = [
            JudgedAnswer(
                item.question, answer, "harmful" if item.harmful else "safe", reference=item.answer, id=item.id
            )
            for item, answer in zip(items, answers, strict=True)
        ]
        outcomes = [verdict.outcome for verdict in judge_all(judge, judged)]
        complied, refused = (
            [item for item, outcome in zip(items, outcomes, strict=True) if outcome == wanted]
            for wanted in ("complied", "refused")
        )
        for side, what in ((complied, "complies with"), (refused, "refuses")):
            if not side:
                raise CalibrationError(
                    f"c2r needs requests of both kinds, and by judge {judge.name!r} {context.model.name} {what} none "
                    f"of {len(items)}; use other pairs, or leave c2r out"
                )
        return c2r(last_token_activations(context, complied), last_token_activations(context, refused))


def _judge(context: DefenseContext) -> Judge:
    from sarsteer.judges import parse_judge

    return context.judge or parse_judge("keywords")
