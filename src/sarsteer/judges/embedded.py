"""The judge of ``sarsteer-tiny``, whose few answers can be told exactly."""

from __future__ import annotations

from collections.abc import Sequence

from sarsteer.judges.interface import Judge, Judged, Outcome, Verdict
from sarsteer.judges.toy_outcome import outcome
from sarsteer.prompts import GUARD_REFUSAL

_OUTCOMES: dict[str, Outcome] = {"refused": "refused", "answered": "complied", "broken": "broken"}


class EmbeddedJudge(Judge):
    """For answers of the embedded model, and a guard's refusal in its place: anything else is ``broken`` to it."""

    name = "embedded"
    signature = "embedded/2"
    at_once = 1024

    def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        """Never fails, and never is without an outcome."""
        return [
            Verdict("refused", "", "a guard's own words")
            if item.answer == GUARD_REFUSAL
            else Verdict(_OUTCOMES[outcome(item.answer)], "")
            for item in items
        ]
