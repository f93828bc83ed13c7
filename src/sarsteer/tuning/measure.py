"""What a setting does in truth: every tuning request is answered under it, and judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs
from sarsteer.errors import TuningError
from sarsteer.judges import Judge, Judged, Verdict, judge_all
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.stats.estimate import Estimate
from sarsteer.stats.rates import rate
from sarsteer.steering.handle import SteeringHandle
from sarsteer.steering.strength import ResolvedStrength
from sarsteer.tuning.references import Requests
from sarsteer.tuning.setting import Setting
from sarsteer.tuning.space import Space
from sarsteer.tuning.split import request_groups

Outcomes = tuple[str | None, ...]
"""The judge's outcome of each request; None where its reply could not be read."""


@dataclass(frozen=True)
class Measured:
    """Outcomes of the tuning pairs' harmful and safe requests; rates are of those that could be read.

    Attributes:
        harmful, safe: in the order of the pairs.
        seconds: that answering and judging took.
        groups: of each pair, the number of its group (``request_groups``): intervals count what one request got in
            several voices as one. Empty where each pair stands alone.

    """

    harmful: Outcomes
    safe: Outcomes
    seconds: float = 0.0
    groups: tuple[int, ...] = ()

    @property
    def asr(self) -> Estimate:
        """Complied, of harmful requests."""
        return self._rate("complied", harmful=self.harmful)

    @property
    def refused(self) -> Estimate:
        """Refused, of harmful requests."""
        return self._rate("refused", harmful=self.harmful)

    @property
    def over_refusal(self) -> Estimate:
        """Refused, of safe requests."""
        return self._rate("refused", safe=self.safe)

    @property
    def broken(self) -> Estimate:
        """No answer at all, of all requests."""
        return self._rate("broken", harmful=self.harmful, safe=self.safe)

    @property
    def cost(self) -> float:
        """What usefulness pays: over-refusal, and broken answers."""
        return self.over_refusal.value + self.broken.value

    def _rate(self, wanted: str, **sides: Outcomes) -> Estimate:
        told = [
            (outcome == wanted, (side, group))
            for side, outcomes in sides.items()
            for outcome, group in zip(outcomes, self.groups or range(len(outcomes)), strict=True)
            if outcome is not None
        ]
        return rate([hit for hit, _ in told], [request for _, request in told])

    def to_json(self) -> dict[str, Any]:
        """Plain values, as files keep them."""
        return {
            "harmful": list(self.harmful),
            "safe": list(self.safe),
            "seconds": self.seconds,
            "groups": list(self.groups),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measured:
        """What ``to_json`` made."""
        return cls(tuple(data["harmful"]), tuple(data["safe"]), float(data["seconds"]), tuple(data["groups"]))


class Measurer:
    """Answers and judges the tuning requests under any setting; steering is attached and proven once.

    Args:
        model: the model; not steered.
        space: the steering from the calibrating pairs, and its gates.
        pairs: the tuning pairs.
        requests: the same, heard.
        judge: tells refusals from compliance.
        max_new_tokens: the longest answer.
        batch_size: requests a forward.
        verdicts: a file in which verdicts are kept, so that an answer is never judged twice.

    """

    def __init__(
        self,
        model: AudioLanguageModel,
        space: Space,
        pairs: Pairs,
        requests: Requests,
        judge: Judge,
        max_new_tokens: int,
        batch_size: int,
        verdicts: Path | None = None,
    ) -> None:
        self._model, self._space, self._pairs, self._requests = model, space, pairs, requests
        self._judge, self._verdicts, self._groups = judge, verdicts, request_groups(pairs)
        self._max_new_tokens, self._batch_size = max_new_tokens, batch_size
        self._handle: SteeringHandle | None = None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def measure(self, setting: Setting) -> Measured:
        """Answer every tuning request under ``setting``, and judge."""
        began = time.perf_counter()
        if self._handle is None:
            self._handle = self._space.steering.attach(self._model, 0.0, 0, gate=False)
        vectors = setting.vectors(self._space.steering)
        self._handle.apply(ResolvedStrength(vectors, setting.alpha, setting.gate(self._space.gates)))
        try:
            prompts = [*self._requests.harmful, *self._requests.safe]
            texts = self._model.generate(prompts, self._max_new_tokens, batch_size=self._batch_size)
        finally:
            self._handle.suspend()
        n = len(self._pairs)
        return replace(self.judged(texts[:n], texts[n:]), seconds=time.perf_counter() - began)

    def judged(self, harmful: Sequence[str], safe: Sequence[str]) -> Measured:
        """The judge's outcomes of answers that are there already.

        Raises:
            TuningError: none of one side could be read.

        """
        rows = [*zip(self._pairs.harmful, harmful, strict=True), *zip(self._pairs.safe, safe, strict=True)]
        verdicts = judge_all(self._judge, [judged(item, text) for item, text in rows], cache=self._verdicts)
        outcomes = [verdict.outcome for verdict in verdicts]
        sides = tuple(outcomes[: len(harmful)]), tuple(outcomes[len(harmful) :])
        for name, side in zip(("harmful", "safe"), sides, strict=True):
            if all(outcome is None for outcome in side):
                raise TuningError(
                    f"judge {self._judge.name} gave nothing that can be read on the {name} requests "
                    f"({_why(verdicts)}); choose another judge"
                )
        return Measured(*sides, groups=self._groups)


def judged(item: Item, text: str) -> Judged:
    """An item with what was answered, for a judge; references are for judges that score, and left out."""
    label: Any = item.label
    return Judged(item.question, text, label, category=item.category, id=item.id, pair=item.pair)


def _why(verdicts: Sequence[Verdict]) -> str:
    return next((verdict.reason for verdict in verdicts if verdict.reason), "no reason given")
