"""What every judge does: read a request and its answer, and return a verdict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from sarsteer.errors import JudgeError, SarsteerError

Outcome = Literal["complied", "refused", "safe_answer", "broken"]
OUTCOMES: tuple[Outcome, ...] = ("complied", "refused", "safe_answer", "broken")


@dataclass(frozen=True)
class JudgedAnswer:
    """A request and the answer that a judge reads.

    Attributes:
        question: the request, as text.
        answer: the model's whole answer.
        label: ``"harmful"`` or ``"safe"``; most judges ignore it.
        reference: a correct answer, for judges that compare.
        category: for tables.
        description: the content of the clip, for judges that cannot listen to it.
        id: of the item; its voices and perturbations have different ids.
        cluster: shared by all variants of one item; by default an item is independent of the others.
        pair: shared by a harmful item and its safe twin.

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
    """A judge's decision about one answer.

    Attributes:
        outcome: ``complied`` (it did what was asked), ``refused``, ``safe_answer`` (it answered without helping with
            harm), ``broken`` (not an answer), or None if the judge's reply could not be read.
        raw: the judge's reply.
        reason: an explanation, if there is one.
        scores: numbers, from judges that score instead of deciding.

    """

    outcome: Outcome | None
    raw: str
    reason: str | None = None
    scores: Mapping[str, float] | None = None

    @property
    def readable(self) -> bool:
        """Whether the judge's reply could be read."""
        return self.outcome is not None or bool(self.scores)


class JudgeStopped(JudgeError):
    """A judge cannot continue, for example because its server is down.

    Attributes:
        completed: the verdicts so far, by the items' indices; they need not be requested again.

    """

    def __init__(self, message: str, completed: Mapping[int, Verdict]) -> None:
        super().__init__(message)
        self.completed = dict(completed)


@dataclass(frozen=True)
class Judge(ABC):
    """Decides what an answer is. Extend it in one new file; see ``docs/extending.md``.

    Creating a judge loads nothing. Models and files are loaded by ``load``, or when they are first needed.

    Attributes:
        name: the name in specs, logs and tables.
        scoring: whether it returns scores instead of outcomes.

    """

    name: ClassVar[str]
    scoring: ClassVar[bool] = False

    @property
    @abstractmethod
    def signature(self) -> str:
        """Everything that a verdict depends on besides the item: model, wording, version. It keys cached verdicts."""

    @property
    def at_once(self) -> int:
        """How many items to give to one call of ``judge``."""
        return 64

    def load(self) -> None:  # noqa: B027 (most judges load nothing)
        """Load models and read files now, so that problems appear before the first answer.

        Raises:
            SarsteerError: something is missing or does not fit.

        """

    @abstractmethod
    def judge(self, items: Sequence[JudgedAnswer]) -> list[Verdict]:
        """One verdict per item, in order. An unreadable reply is a verdict too: its outcome is None.

        Raises:
            JudgeStopped: the judge cannot continue; ``completed`` holds the verdicts so far.

        """


def all_or_stop(results: Sequence[Verdict | SarsteerError]) -> list[Verdict]:
    """The verdicts, if there are no errors among them.

    Raises:
        JudgeStopped: with the first error's message and the verdicts.

    """
    errors = [result for result in results if isinstance(result, SarsteerError)]
    if errors:
        completed = {i: result for i, result in enumerate(results) if isinstance(result, Verdict)}
        raise JudgeStopped(errors[0].message, completed) from errors[0]
    return [result for result in results if isinstance(result, Verdict)]
