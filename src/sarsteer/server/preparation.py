"""Prepare the prompts of requests that will join, while the model's thread decodes others.

Clips and prompts take a good part of an answer's time (docs/server.md), and need nothing of what is being decoded. One
thread prepares them, one group of requests at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

J = TypeVar("J")
E = TypeVar("E")


class Preparation(Generic[J, E]):
    """A group of requests that is being prepared. Leaving its context waits for the thread.

    Args:
        executor: the thread.
        prepare: turns requests into what the decoding loop takes.

    """

    def __init__(self, executor: ThreadPoolExecutor, prepare: Callable[[Sequence[J]], list[E]]) -> None:
        self._executor, self._prepare = executor, prepare
        self._running: Future[list[E]] | None = None

    def __enter__(self) -> Preparation[J, E]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._running is not None:
            self._running.exception()  # waits; whoever left the context knows which requests were lost

    @property
    def busy(self) -> bool:
        """Whether a group is being prepared, or was prepared and has not been taken."""
        return self._running is not None

    def start(self, requests: Sequence[J]) -> None:
        """Prepare the next group, unless it is empty. The previous one was taken."""
        assert self._running is None
        if requests:
            self._running = self._executor.submit(self._prepare, requests)

    def take(self, *, wait: bool) -> list[E]:
        """What has been prepared, once; empty if it is not complete and ``wait`` is False. Raises what it raised."""
        if self._running is None or not (wait or self._running.done()):
            return []
        running, self._running = self._running, None
        return running.result()
