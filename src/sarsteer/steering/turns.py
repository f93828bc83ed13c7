"""Answers and changes of one steered model take turns, whatever threads they come from.

The rule: a change of the steering waits until all running answers have finished, and answers that start meanwhile wait
for the change. So every token of an answer is steered by one strength. A thread that is answering cannot change the
steering: it would wait for itself, and gets an error.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sarsteer.errors import SteeringError


class Turns:
    """Who is answering with a steered model, and who is changing its steering. Reentrant for each thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._answering: Counter[int] = Counter()  # calls by thread
        self._alone: Counter[int] = Counter()  # those of them that exclude calls of other threads
        self._changing: Counter[int] = Counter()  # at most one thread
        self._waiting = 0  # changes that wait for answers

    @contextmanager
    def answer(self, *, alone: bool) -> Iterator[None]:
        """One answer, or one batch of answers.

        Args:
            alone: whether the model remembers only one call's decisions or rows, as with a gate.

        Raises:
            SteeringError: another thread is answering, and one of the two calls must be alone.

        """
        me = threading.get_ident()
        with self._condition:
            if not self._answering[me] and not self._changing[me]:
                self._condition.wait_for(lambda: not self._waiting and not self._busy(self._changing, me))
            if alone or self._busy(self._alone, me):
                self._check_alone(me)
            self._answering[me] += 1
            self._alone[me] += alone
        try:
            yield
        finally:
            with self._condition:
                self._alone[me] -= alone
                if not self._alone[me]:
                    del self._alone[me]
            self._leave(self._answering, me)

    @contextmanager
    def change(self) -> Iterator[None]:
        """A change of the steering; waits for answers of other threads.

        Raises:
            SteeringError: this thread is answering.

        """
        me = threading.get_ident()
        with self._condition:
            if self._answering[me] and not self._changing[me]:
                raise SteeringError(
                    "the steering cannot be changed by the thread that is answering with it; change it after the answer"
                )
            self._waiting += 1
            try:
                self._condition.wait_for(
                    lambda: not self._busy(self._changing, me) and not self._busy(self._answering, me)
                )
            finally:
                self._waiting -= 1
            self._changing[me] += 1
        try:
            yield
        finally:
            self._leave(self._changing, me)

    def check_forward(self) -> None:
        """Raise ``SteeringError`` if another thread is answering: a forward would overwrite its gate decisions."""
        with self._condition:
            self._check_alone(threading.get_ident())

    def _check_alone(self, me: int) -> None:
        if self._busy(self._answering, me):
            raise SteeringError(
                "this model is answering another request, and remembers one call's decisions and rows; make calls one "
                "after another, put them into one batch, or load the model once per thread"
            )

    @staticmethod
    def _busy(calls: Counter[int], me: int) -> bool:
        return any(count for thread, count in calls.items() if thread != me)

    def _leave(self, calls: Counter[int], me: int) -> None:
        with self._condition:
            calls[me] -= 1
            if not calls[me]:
                del calls[me]
            self._condition.notify_all()
