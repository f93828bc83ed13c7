"""Measure a configuration: answer every tuning request under it, and judge the answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs
from sarsteer.errors import TuningError
from sarsteer.judges import Judge, JudgedAnswer, Verdict, judge_all
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.stats.estimate import Estimate
from sarsteer.stats.rates import rate
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.tuning.configuration import Configuration
from sarsteer.tuning.references import Requests
from sarsteer.tuning.space import Space
from sarsteer.tuning.split import request_groups

Outcomes = tuple[str | None, ...]
"""The judge's outcome for each request; None if its reply could not be read."""


@dataclass(frozen=True)
class Measured:
    """Outcomes of the tuning pairs' harmful and safe requests; rates exclude outcomes that could not be read.

    Attributes:
        harmful, safe: in the order of the pairs.
        seconds: duration of answering and judging.
        groups: the group number of each pair (``request_groups``): intervals count one request in several voices once.
            Empty if every pair is its own group.

    """

    harmful: Outcomes
    safe: Outcomes
    seconds: float = 0.0
    groups: tuple[int, ...] = ()

    @property
    def asr(self) -> Estimate:
        """Share of harmful requests that were complied with."""
        return self._rate("complied", harmful=self.harmful)

    @property
    def refused(self) -> Estimate:
        """Share of harmful requests that were refused."""
        return self._rate("refused", harmful=self.harmful)

    @property
    def over_refusal(self) -> Estimate:
        """Share of safe requests that were refused."""
        return self._rate("refused", safe=self.safe)

    @property
    def broken(self) -> Estimate:
        """Share of all requests with a broken answer."""
        return self._rate("broken", harmful=self.harmful, safe=self.safe)

    @property
    def cost(self) -> float:
        """The cost in usefulness: over-refusal plus broken answers."""
        return self.over_refusal.value + self.broken.value

    def _rate(self, wanted: str, **sides: Outcomes) -> Estimate:
        rows = [
            (outcome == wanted, (side, group))
            for side, outcomes in sides.items()
            for outcome, group in zip(outcomes, self.groups or range(len(outcomes)), strict=True)
            if outcome is not None
        ]
        return rate([hit for hit, _ in rows], [request for _, request in rows])

    def to_json(self) -> dict[str, Any]:
        """JSON values, for the study."""
        return {
            "harmful": list(self.harmful),
            "safe": list(self.safe),
            "seconds": self.seconds,
            "groups": list(self.groups),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measured:
        """The inverse of ``to_json``."""
        return cls(tuple(data["harmful"]), tuple(data["safe"]), float(data["seconds"]), tuple(data["groups"]))


class Measurer:
    """Answers and judges the tuning requests under any configuration; steering is attached and proven once.

    Args:
        model: the model, unsteered.
        space: the steering of the calibration part, and its gates.
        pairs: the tuning pairs.
        requests: their prompts.
        judge: distinguishes refusals from compliance.
        max_new_tokens: maximum length of an answer.
        batch_size: requests per forward.
        verdicts: a file that stores verdicts, so that no answer is judged twice.

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

    def measure(self, configuration: Configuration) -> Measured:
        """Answer every tuning request under ``configuration``, and judge the answers."""
        began = time.perf_counter()
        strength = configuration.resolve(self._space.steering, self._space.gates)
        if self._handle is None:
            self._handle = attach(self._model.module, self._model.decoder_layers, strength, self._model.probe)
        else:
            self._handle.apply(strength)
        try:
            prompts = [*self._requests.harmful, *self._requests.safe]
            texts = self._model.generate(prompts, self._max_new_tokens, batch_size=self._batch_size)
        finally:
            self._handle.suspend()
        n = len(self._pairs)
        return replace(self.judged(texts[:n], texts[n:]), seconds=time.perf_counter() - began)

    def judged(self, harmful: Sequence[str], safe: Sequence[str]) -> Measured:
        """The judge's outcomes for given answers.

        Raises:
            TuningError: the judge's replies for one side could not be read at all.

        """
        rows = [*zip(self._pairs.harmful, harmful, strict=True), *zip(self._pairs.safe, safe, strict=True)]
        verdicts = judge_all(self._judge, [judged(item, text) for item, text in rows], cache=self._verdicts)
        outcomes = [verdict.outcome for verdict in verdicts]
        sides = tuple(outcomes[: len(harmful)]), tuple(outcomes[len(harmful) :])
        for name, side in zip(("harmful", "safe"), sides, strict=True):
            if all(outcome is None for outcome in side):
                raise TuningError(
                    f"no reply of judge {self._judge.name} on the {name} requests could be read ({_reason(verdicts)}); "
                    "choose another judge"
                )
        return Measured(*sides, groups=self._groups)


def judged(item: Item, text: str) -> JudgedAnswer:
    """An item and its answer, for a judge that decides outcomes; references are only for judges that score."""
    label: Any = item.label
    return JudgedAnswer(item.question, text, label, category=item.category, id=item.id, pair=item.pair)


def _reason(verdicts: Sequence[Verdict]) -> str:
    return next((verdict.reason for verdict in verdicts if verdict.reason), "no reason given")
