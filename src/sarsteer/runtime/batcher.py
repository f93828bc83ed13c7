"""Collect the requests of many coroutines into batches, and answer those in one worker thread."""

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

QUIET_SECONDS = 0.05
"""A batch that is not full starts when no request has come for this long; requests come about 10 ms apart."""
MAX_WAIT_SECONDS = 0.25
"""The longest that a batch waits for more requests."""


@dataclass
class _Waiting(Generic[Q, A]):
    key: Hashable
    request: Q
    answer: Future[A]


class Batcher(Generic[Q, A]):
    """Groups requests with equal keys and passes each group to ``work``.

    Args:
        work: called in the worker thread with a key and its requests. An exception in place of an answer is raised for
            this request; an exception that it raises is raised for every request of the batch.
        size: the maximum number of requests in a batch.
        length: a request's length. If more requests wait than fit, a batch takes those closest in length to its first.

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
        self._start = threading.Lock()
        self._worker: threading.Thread | None = None

    async def ask(self, request: Q, key: Hashable = None) -> A:
        """The answer to one request, computed in a batch with others."""
        waiting: _Waiting[Q, A] = _Waiting(key, request, Future())
        with self._start:
            if self._worker is None:
                self._worker = threading.Thread(target=self._run, name="sarsteer-batches", daemon=True)
                self._worker.start()
        self._queue.put(waiting)
        return await asyncio.wrap_future(waiting.answer)

    def _run(self) -> None:
        waiting: list[_Waiting[Q, A]] = []
        while True:
            if not waiting:
                waiting.append(self._queue.get())
            self._collect(waiting)
            first = waiting[0]
            length = self._length(first.request)
            same_key = [one for one in waiting if one.key == first.key]
            batch = sorted(same_key, key=lambda one: abs(self._length(one.request) - length))[: self.size]
            taken = set(map(id, batch))
            waiting = [one for one in waiting if id(one) not in taken]
            self._answer(first.key, [one for one in batch if one.answer.set_running_or_notify_cancel()])

    def _collect(self, waiting: list[_Waiting[Q, A]]) -> None:
        """Wait a short time for more requests with the first one's key."""
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while sum(one.key == waiting[0].key for one in waiting) < self.size:
            try:
                timeout = max(0.0, min(QUIET_SECONDS, deadline - time.monotonic()))
                waiting.append(self._queue.get(timeout=timeout))
            except queue.Empty:
                return
        while not self._queue.empty():  # only this thread takes from the queue
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
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)
