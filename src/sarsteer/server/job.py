"""One request while it waits and is answered, and what is reported about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sarsteer.messages import Message
from sarsteer.server.sampling import Sampler
from sarsteer.server.tenant import Tenant
from sarsteer.server.text import AnswerText
from sarsteer.steering.gate.gate import Decision


@dataclass(frozen=True)
class Started:
    """The first tokens were generated; the gate has decided. ``decision`` is None without a gate."""

    decision: Decision | None
    prompt_tokens: int


@dataclass(frozen=True)
class Piece:
    """More text of one answer."""

    index: int
    text: str


@dataclass(frozen=True)
class Finished:
    """One answer is complete; ``text`` is the whole of it."""

    index: int
    text: str
    reason: str
    tokens: int


@dataclass(frozen=True)
class Failed:
    """The request cannot be answered; nothing else follows."""

    error: Exception


Event = Started | Piece | Finished | Failed


@dataclass(eq=False)
class Job:
    """One request.

    Attributes:
        tenant: whose it is; a policy that is loaded later does not change it.
        conversation: its messages with decoded clips.
        max_tokens: the longest answer.
        exact: whether the client chose ``max_tokens``; otherwise it is lowered to what fits into the context.
        n: the number of answers.
        stops: an answer ends before any of these.
        temperature, top_p, seed: how tokens are drawn; temperature 0 is greedy.
        stream: whether text is reported piece by piece.
        notify: called in the model's thread with events in order; must return at once.
        cancelled: the client is gone; the model stops at its next token.

    """

    tenant: Tenant
    conversation: list[Message]
    max_tokens: int
    notify: Callable[[Event], None]
    exact: bool = False
    n: int = 1
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stream: bool = False
    cancelled: bool = False
    created: float = field(default_factory=time.monotonic)
    started: bool = False
    finished: bool = False

    def rows(self, decode: Callable[[list[int]], str]) -> list[Row]:
        """The answers to generate."""
        return [Row(self, index, decode) for index in range(self.n)]

    def fail(self, error: Exception) -> None:
        """Report that the request cannot be answered, once."""
        if not self.finished:
            self.finished = True
            self.notify(Failed(error))


class Row:
    """One answer of a job: a row of a batch."""

    def __init__(self, job: Job, index: int, decode: Callable[[list[int]], str]) -> None:
        self.job, self.index = job, index
        self.reason: str | None = None
        self.tokens = 0
        self.decision: Decision | None = None
        self.sampler = Sampler(job.temperature, job.top_p, job.seed, index) if job.temperature > 0 else None
        self.text = AnswerText(decode, job.stops, gradual=job.stream)
        self.published = False

    @property
    def done(self) -> bool:
        """Whether no more tokens are needed."""
        return self.reason is not None or self.job.cancelled or self.job.finished

    def again(self, decode: Callable[[list[int]], str]) -> Row:
        """The same answer from its beginning, with the same random numbers."""
        row = Row(self.job, self.index, decode)
        row.sampler = self.sampler
        if row.sampler is not None:
            row.sampler.restart()
        return row

    def take(self, token: int, *, ends: bool) -> None:
        """The next token; ``ends`` if the model ended its answer with it."""
        self.tokens += 1
        if not ends:
            self.text.add(token)
        if self.text.stopped or ends:
            self.finish("stop")
        elif self.tokens >= self.job.max_tokens:
            self.finish("length")
        elif self.job.stream:
            self._piece(self.text.release())

    def refuse(self, text: str) -> None:
        """End the answer with the operator's text, in place of the model's."""
        self.reason = "content_filter"
        if self.job.stream:
            self._piece(text)
        self.job.notify(Finished(self.index, text, self.reason, self.tokens))

    def finish(self, reason: str) -> None:
        """End the answer."""
        self.reason = reason
        rest = self.text.finish()
        if self.job.stream:
            self._piece(rest)
        self.job.notify(Finished(self.index, self.text.whole, reason, self.tokens))

    def _piece(self, text: str) -> None:
        if text:
            self.published = True
            self.job.notify(Piece(self.index, text))
