"""A model or a judge that many requests share: each has a queue and answers in batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sarsteer.defenses.built import BuiltDefense
from sarsteer.errors import JudgeError
from sarsteer.judges.base import Judge, JudgedAnswer, JudgeStopped, Verdict
from sarsteer.messages import Message
from sarsteer.models.interface import LanguageModel
from sarsteer.runtime.answerer import Answerer, Reply
from sarsteer.runtime.batcher import Batcher


@dataclass(frozen=True)
class Request:
    """One conversation, to be answered under one defense."""

    conversation: list[Message]
    defense: BuiltDefense
    max_new_tokens: int
    generation: Mapping[str, Any]

    @property
    def key(self) -> Hashable:
        """Requests with equal keys can share a forward."""
        return self.defense.batch_key, self.max_new_tokens, json.dumps(self.generation, sort_keys=True)


class SharedModel:
    """A loaded model with a queue of requests."""

    def __init__(self, model: LanguageModel, batch_size: int) -> None:
        self.model = model
        self.answerer = Answerer(model)
        self._weights: dict[str, str] = {}
        self._batcher: Batcher[Request, Reply] = Batcher(self._work, batch_size, _length)

    @property
    def batch_size(self) -> int:
        """The maximum number of requests per forward."""
        return self._batcher.size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._batcher.size = size

    @property
    def identity(self) -> Mapping[str, Any]:
        """What distinguishes the model from others, as JSON: its fingerprint, or its address if it is behind an API."""
        return {**self._identity, **self._weights}

    @contextmanager
    def altered(self, weights: str) -> Iterator[None]:
        """A context in which the model is another one: someone changed its weights; ``weights`` says how."""
        self._identity  # noqa: B018 - of the weights as they were
        self._weights = {"weights": weights}
        try:
            yield
        finally:
            self._weights = {}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        model: Any = self.model
        fingerprint = getattr(model, "fingerprint", None)
        if fingerprint is None:
            return {"name": model.name, "address": getattr(model, "base_url", None)}
        return {
            "name": model.name,
            "family": model.family.name,
            "revision": model.revision,
            "fingerprint": fingerprint.digest,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        }

    async def ask(self, request: Request) -> Reply:
        """The reply to one request. Requests that meet the same member of a pooled defense share batches."""
        request = replace(request, defense=request.defense.member_for(request.conversation))
        return await self._batcher.ask(request, request.key)

    def _work(self, _key: Hashable, requests: list[Request]) -> Sequence[Reply | Exception]:
        first = requests[0]
        return self.answerer.answer(
            first.defense,
            [request.conversation for request in requests],
            first.max_new_tokens,
            batch_size=self.batch_size,
            **first.generation,
        )


def _length(request: Request) -> float:
    """The approximate length of a request: characters of its texts and of its encoded media."""
    contents = [message["content"] for message in request.conversation]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    return sum(len(part) if isinstance(part, str) else len(part.get("text") or part.get("url") or "") for part in parts)


class SharedJudge:
    """A judge with a queue of answers.

    Attributes:
        judge: the judge.
        stopped: why it cannot continue; from then on nothing is answered, because it could not be judged.
        on_verdict: called for each verdict, for example by a progress bar.

    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.stopped: str | None = None
        self.on_verdict: Callable[[], None] | None = None
        self._batcher: Batcher[JudgedAnswer, Verdict] = Batcher(self._work, judge.at_once)

    async def ask(self, item: JudgedAnswer) -> Verdict:
        """The verdict on one answer."""
        verdict = await self._batcher.ask(item)
        if self.on_verdict is not None:
            self.on_verdict()
        return verdict

    def check(self) -> None:
        """Raise ``JudgeError`` if the judge has stopped."""
        if self.stopped is not None:
            raise JudgeError(self.stopped)

    def _work(self, _key: Hashable, items: list[JudgedAnswer]) -> Sequence[Verdict | Exception]:
        if self.stopped is not None:
            return [JudgeError(self.stopped)] * len(items)
        try:
            return self.judge.judge(items)
        except JudgeStopped as error:
            self.stopped = error.message
            return [error.completed.get(i, JudgeError(self.stopped)) for i in range(len(items))]
