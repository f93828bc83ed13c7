"""From many coroutines that each want one answer to few batches in one worker thread."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

QUIET = 0.05
"""Seconds without a new request after which a batch that is not full begins; a request takes about 10 ms to come."""
LONGEST = 0.25
"""Seconds that a batch is gathered at most."""


@dataclass
class _Waiting(Generic[Q, A]):
    key: Hashable
    request: Q
    future: Future[A]


class Batcher(Generic[Q, A]):
    """Gathers requests of one key, and gives them to ``work`` together.

    Args:
        work: called in the worker's thread with the key and its requests; an exception in the place of an answer is
            raised where that answer is awaited, and one that ``work`` raises wherever one of the batch is.
        size: the most requests in a batch.
        length: of a request; where more wait than a batch holds, those most like the first of them go with it.

    """

    def __init__(
        self,
        work: Callable[[Hashable, list[Q]], Sequence[A | Exception]],
        size: int,
        length: Callable[[Q], float] = lambda _: 0.0,
    ) -> None:
        self._work = work
        self._length = length
        self.size = size
        self._queue: queue.Queue[_Waiting[Q, A]] = queue.Queue()
        self._starting = threading.Lock()
        self._worker: threading.Thread | None = None

    async def ask(self, request: Q, key: Hashable = None) -> A:
        """The answer to one request, got together with those of others."""
        waiting: _Waiting[Q, A] = _Waiting(key, request, Future())
        with self._starting:
            if self._worker is None:
                self._worker = threading.Thread(target=self._run, name="sarsteer-batches", daemon=True)
                self._worker.start()
        self._queue.put(waiting)
        return await asyncio.wrap_future(waiting.future)

    def _run(self) -> None:
        waiting: list[_Waiting[Q, A]] = []
        while True:
            if not waiting:
                waiting.append(self._queue.get())
            self._gather(waiting)
            key, length = waiting[0].key, self._length(waiting[0].request)
            alike = [one for one in waiting if one.key == key]
            mine = sorted(alike, key=lambda one: abs(self._length(one.request) - length))[: self.size]
            taken = set(map(id, mine))
            waiting = [one for one in waiting if id(one) not in taken]
            self._answer(key, [one for one in mine if one.future.set_running_or_notify_cancel()])

    def _gather(self, waiting: list[_Waiting[Q, A]]) -> None:
        """Wait for company of the first request's key, but not long."""
        until = time.monotonic() + LONGEST
        while sum(one.key == waiting[0].key for one in waiting) < self.size:
            try:
                waiting.append(self._queue.get(timeout=max(0.0, min(QUIET, until - time.monotonic()))))
            except queue.Empty:
                return
        while not self._queue.empty():  # this thread alone takes from it
            waiting.append(self._queue.get())

    def _answer(self, key: Hashable, batch: list[_Waiting[Q, A]]) -> None:
        if not batch:
            return
        try:
            answers = self._work(key, [one.request for one in batch])
        except Exception as error:
            answers = [error] * len(batch)
        for one, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                one.future.set_exception(answer)
            else:
                one.future.set_result(answer)
