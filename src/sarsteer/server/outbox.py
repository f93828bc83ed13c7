"""Hands events from the model's thread to the event loop: once per step, not once per token."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable

from sarsteer.server.job import Event

Inbox = asyncio.Queue[Event]


class Outbox:
    """Collects events, and delivers them when flushed. Safe to use from several threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: list[tuple[Inbox, Event]] = []
        self._lock = threading.Lock()

    def to(self, inbox: Inbox) -> Callable[[Event], None]:
        """A function that collects an event for ``inbox``."""
        return functools.partial(self._collect, inbox)

    def flush(self) -> None:
        """Deliver what was collected, in order."""
        with self._lock:
            events, self._events = self._events, []
        if events:
            try:
                self._loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _collect(self, inbox: Inbox, event: Event) -> None:
        with self._lock:
            self._events.append((inbox, event))


def _deliver(events: list[tuple[Inbox, Event]]) -> None:
    for inbox, event in events:
        inbox.put_nowait(event)
