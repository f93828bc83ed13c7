"""What one process has once, however many tasks ask for it: loaded models, and judges."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sarsteer.defenses import Answerer, Defense, Reply
from sarsteer.errors import EvaluationError, JudgeError
from sarsteer.judges import Judge, Judged, JudgeStopped, Verdict, make_judge
from sarsteer.messages import Message
from sarsteer.models.interface import LanguageModel
from sarsteer.runtime.batcher import Batcher


@dataclass(frozen=True)
class Request:
    """One conversation, to be answered under one defence."""

    conversation: list[Message]
    defense: Defense
    max_new_tokens: int
    generation: Mapping[str, Any]

    @property
    def key(self) -> Hashable:
        """Requests of one key can share a forward."""
        return self.defense.key, self.max_new_tokens, json.dumps(self.generation, sort_keys=True)


class SharedModel:
    """A loaded model and the queue before it."""

    def __init__(self, model: LanguageModel, batch_size: int) -> None:
        self.model = model
        self.answerer = Answerer(model)
        self._batcher: Batcher[Request, Reply] = Batcher(self._work, batch_size, _length)

    @property
    def batch_size(self) -> int:
        """Requests in a forward."""
        return self._batcher.size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._batcher.size = size

    async def ask(self, request: Request) -> Reply:
        """The reply to one request."""
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
    """About how long a request is: characters of its texts and of its encoded media."""
    contents = [message["content"] for message in request.conversation]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    return sum(len(part) if isinstance(part, str) else len(part.get("text") or part.get("url") or "") for part in parts)


class SharedJudge:
    """A judge and the queue before it.

    Attributes:
        judge: the judge.
        stopped: why it cannot go on; nothing more is answered then, since it could not be judged.
        on_verdict: called for each verdict, such as by a progress bar.

    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.stopped: str | None = None
        self.on_verdict: Callable[[], None] | None = None
        self._batcher: Batcher[Judged, Verdict] = Batcher(self._work, judge.at_once)

    async def ask(self, item: Judged) -> Verdict:
        """The verdict on one answer."""
        verdict = await self._batcher.ask(item)
        if self.on_verdict is not None:
            self.on_verdict()
        return verdict

    def check(self) -> None:
        """Raise ``JudgeError`` if the judge stopped."""
        if self.stopped is not None:
            raise JudgeError(self.stopped)

    def _work(self, _key: Hashable, items: list[Judged]) -> Sequence[Verdict | Exception]:
        if self.stopped is not None:
            return [JudgeError(self.stopped)] * len(items)
        try:
            return self.judge.judge(items)
        except JudgeStopped as error:
            self.stopped = re.sub(r"\bconversation \d+: ", "", str(error))  # its place in a batch that nobody sees
            return [error.completed.get(i, JudgeError(self.stopped)) for i in range(len(items))]


_made: dict[tuple[str, str], Any] = {}
_making = threading.Lock()


def shared_model(name: str, options: Mapping[str, Any], batch_size: int) -> SharedModel:
    """The model of that name, loaded if this process has not loaded it with these options.

    Raises:
        ModelError: it cannot be loaded.

    """
    from sarsteer.models.loading import open_model

    with _making:
        key = name, json.dumps(options, sort_keys=True)
        if key not in _made:
            _made[key] = SharedModel(open_model(name, **options), batch_size)
        return cast(SharedModel, _made[key])


def shared_judge(spec: str) -> SharedJudge:
    """The judge that ``spec`` names, made if this process has not made it.

    Raises:
        JudgeError: there is none, or it cannot be made.

    """
    with _making:
        key = "judge", spec
        if key not in _made:
            _made[key] = SharedJudge(make_judge(spec))
        return cast(SharedJudge, _made[key])


def put_arm(shared: SharedModel, defense: Defense) -> str:
    """Keep a model under a defence for the provider to find; returns the key, equal for equal settings in any process.

    So a log names what was done, and not where files lay or how large batches were, which may change on resuming.
    """
    key = hashlib.sha256(defense.key.encode()).hexdigest()[:16]
    with _making:
        _made["arm", key] = shared, defense
    return key


def arm(key: str) -> tuple[SharedModel, Defense]:
    """What ``put_arm`` kept.

    Raises:
        EvaluationError: this process has none of that key.

    """
    if ("arm", key) not in _made:
        raise EvaluationError(f"arm {key} belongs to a run of sarsteer evaluate; go on with that command")
    return cast(tuple[SharedModel, Defense], _made["arm", key])


def forget() -> None:
    """Let go of every model and judge, their steering taken off."""
    with _making:
        for one in _made.values():
            if isinstance(one, SharedModel):
                one.answerer.close()
        _made.clear()
