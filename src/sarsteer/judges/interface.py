"""What every judge does: it reads a request and its answer, and gives a verdict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sarsteer.errors import JudgeError, SarsteerError

Outcome = Literal["complied", "refused", "safe_answer", "broken"]
OUTCOMES: tuple[Outcome, ...] = ("complied", "refused", "safe_answer", "broken")


@dataclass(frozen=True)
class Judged:
    """A request, and what a model answered.

    Attributes:
        question: what was asked, as text.
        answer: what the model said, whole.
        label: ``"harmful"`` or ``"safe"``.
        reference: a right answer, for judges that compare with one.
        category: for tables.
        description: what is heard in the clip, for judges that cannot hear it.
        id: of the item; its voices and perturbations have ids of their own.
        cluster: what hangs together with it (all variants of one item); the item stands alone by default.
        pair: what it shares with its harmful or safe twin.

    """

    question: str
    answer: str
    label: Literal["harmful", "safe"]
    reference: str | None = None
    category: str | None = None
    description: str | None = None
    id: str | None = None
    cluster: str | None = None
    pair: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one answer.

    Attributes:
        outcome: ``complied`` (it did what was asked), ``refused``, ``safe_answer`` (it answered, and helped with no
            harm), ``broken`` (no answer at all), or None where the judge's reply says nothing that can be read.
        raw: the judge's own words.
        reason: why, where there is more to say.
        scores: numbers, from judges that score rather than decide.

    """

    outcome: Outcome | None
    raw: str
    reason: str | None = None
    scores: Mapping[str, float] | None = None

    @property
    def readable(self) -> bool:
        """Whether anything could be read from the judge's reply."""
        return self.outcome is not None or bool(self.scores)


class JudgeStopped(JudgeError):
    """A judge could not go on, such as when its server is down.

    Attributes:
        completed: the verdicts that it had given, by the items' indices: they need not be asked for again.

    """

    def __init__(self, message: str, completed: Mapping[int, Verdict]) -> None:
        super().__init__(message)
        self.completed = dict(completed)


class Judge(ABC):
    """Anything that tells what an answer is.

    Attributes:
        name: what logs and tables call the judge.
        signature: all that a verdict depends on beside the item (model, wording, version); names cached verdicts.
        at_once: how many items ``judge`` likes to be given.

    """

    name: str
    signature: str
    at_once: int = 64

    @abstractmethod
    def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        """One verdict for each item, in their order. What cannot be read is a verdict too: its outcome is None.

        Raises:
            JudgeStopped: the judge cannot go on; the verdicts so far are in ``completed``.

        """


def all_or_stop(results: Sequence[Verdict | SarsteerError]) -> list[Verdict]:
    """The verdicts, if nothing but verdicts is there.

    Raises:
        JudgeStopped: with the first error's message, and the verdicts.

    """
    errors = [result for result in results if isinstance(result, SarsteerError)]
    if errors:
        given = {i: result for i, result in enumerate(results) if isinstance(result, Verdict)}
        raise JudgeStopped(str(errors[0]), given) from errors[0]
    return [result for result in results if isinstance(result, Verdict)]
