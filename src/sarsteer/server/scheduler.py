"""Who is answered when: a bounded queue, turns between tenants, and one thread that runs the model.

Each tenant has a queue. A batch begins with the next tenant in turn, and takes requests of all tenants with the same
gate (``Engine.key``), in turns. Requests that arrive meanwhile join it as soon as rows are free, if the engine can do
that, until a tenant that cannot share it waits: then the batch ends, which ``max_tokens`` bounds, and the next begins.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from sarsteer.errors import SarsteerError, SteeringError
from sarsteer.server.engine import Engine
from sarsteer.server.errors import ApiError, not_ready, overloaded
from sarsteer.server.job import Job
from sarsteer.server.limits import Limits
from sarsteer.server.outbox import Outbox
from sarsteer.server.tenant import Tenant

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.004
"""After a batch of several, the next one waits this long for another request: clients come back at once."""
MAX_WAIT_SECONDS = 0.02
"""The longest that a batch waits for more requests."""


class Place:
    """A request's place in the queue, from its arrival until the model begins to answer it."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Give the place back. Safe to call twice."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Scheduler:
    """Owns the model's thread.

    Args:
        load: loads the model and proves its steering; called in the thread.
        limits: sizes of batches and queue.
        outbox: where events go.
        failed: called in the thread if the model cannot be loaded, or can no longer be steered.
        observed: called in the thread with the number of rows and the seconds of each batch.

    """

    def __init__(
        self,
        load: Callable[[], Engine],
        limits: Limits,
        outbox: Outbox,
        failed: Callable[[Exception], None],
        observed: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self._load, self._limits, self._outbox = load, limits, outbox
        self._failed, self._observed = failed, observed
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[tuple[Job, Place]]] = OrderedDict()
        self._places: Counter[str] = Counter()
        self._calls: deque[tuple[Callable[[Engine], Any], Future[Any]]] = deque()
        self._stopping = False
        self._running = 0
        self._last_rows = 0
        self._mean_seconds = 0.0
        self.tenants = 1
        self.engine: Engine | None = None
        self.error: str | None = "the model is being loaded"
        self._thread = threading.Thread(target=self._run, name="sarsteer-model", daemon=True)

    # ---- called by the event loop --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the steering has been proven, and the model answers."""
        return self.error is None

    @property
    def alive(self) -> bool:
        """Whether the thread runs: the model is being loaded, or answers."""
        return self._thread.is_alive()

    @property
    def queued(self) -> int:
        """Requests that wait, those that are still being received included."""
        return sum(self._places.values())

    @property
    def running(self) -> int:
        """Answers that are being generated."""
        return self._running

    def reserve(self, tenant: Tenant) -> Place:
        """A place in the queue.

        Raises:
            ApiError: the server is not ready, or the queue is full for this tenant.

        """
        with self._changed:
            if self.error is not None:
                raise not_ready(self.error)
            # no tenant can fill the whole queue, unless it is alone
            share = max(self._limits.batch, self._limits.queue // max(1, self.tenants))
            if self.queued >= self._limits.queue or self._places[tenant.name] >= share:
                batches = 1 + self.queued / self._limits.batch
                raise overloaded(min(60, max(1, math.ceil(batches * self._mean_seconds))))
            self._places[tenant.name] += 1
        return Place(lambda: self._give_back(tenant.name))

    def submit(self, job: Job, place: Place) -> None:
        """Queue a job."""
        with self._changed:
            if self.error is not None:
                place.release()
                raise not_ready(self.error)
            self._waiting.setdefault(job.tenant.name, deque()).append((job, place))
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """The client of ``job`` is gone: forget it, or stop answering it at the next token."""
        job.cancelled = True
        with self._changed:
            queue = self._waiting.get(job.tenant.name, deque())
            for entry in [entry for entry in queue if entry[0] is job]:
                queue.remove(entry)
                entry[1].release()

    def call(self, function: Callable[[Engine], Any]) -> Future[Any]:
        """Call ``function`` with the engine between two batches."""
        future: Future[Any] = Future()
        with self._changed:
            if self.error is not None:
                future.set_exception(SarsteerError(self.error))
                return future
            self._calls.append((function, future))
            self._changed.notify_all()
        return future

    def stop(self) -> None:
        """End the thread after the running batch, and wait for it; jobs that wait fail."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self.engine is not None:  # a model that is still being loaded is not waited for
            self._thread.join()

    def _give_back(self, name: str) -> None:
        with self._changed:
            self._places[name] -= 1
            if not self._places[name]:
                del self._places[name]
            self._changed.notify_all()

    # ---- the model's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.engine = self._load()
        except Exception as error:
            self._fail("the model could not be loaded", error)
            return
        self.error = None
        while self._step(self.engine):
            pass
        if self.error is None:
            self._end("the server is shutting down")

    def _step(self, engine: Engine) -> bool:
        """Do one thing; False when the thread should end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._calls or self._rows_waiting())
            if self._stopping:
                return False
            call = self._calls.popleft() if self._calls else None
        if call is not None:
            self._serve_call(engine, *call)
            return self.error is None
        self._linger(engine)
        jobs = self._pick(engine)
        return not jobs or self._answer(engine, jobs)

    def _serve_call(self, engine: Engine, function: Callable[[Engine], Any], future: Future[Any]) -> None:
        try:
            future.set_result(function(engine))
        except Exception as error:
            future.set_exception(error)

    def _rows_waiting(self) -> int:
        return sum(job.n for queue in self._waiting.values() for job, _ in queue)

    def _linger(self, engine: Engine) -> None:
        """Wait a moment if more requests are likely to come: some are being received, or a batch has just ended."""
        if engine.joins:
            return  # what comes later joins
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        with self._changed:
            while not self._stopping and self._rows_waiting() < engine.batch:
                being_received = self.queued > sum(map(len, self._waiting.values()))
                if not being_received and self._rows_waiting() >= self._last_rows:
                    return
                before = self._rows_waiting()
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(min(left, QUIET_SECONDS)) or self._rows_waiting() == before:
                    return

    def _pick(self, engine: Engine) -> list[Job]:
        """The next batch: the jobs of the tenant whose turn it is, and of those that can share it."""
        with self._changed:
            for name in [name for name, queue in self._waiting.items() if not queue]:
                del self._waiting[name]
            if not self._waiting:
                return []
            first = next(iter(self._waiting))
            return self._take(engine, engine.key(self._waiting[first][0][0].tenant), engine.batch)

    def _joining(self, engine: Engine, key: Hashable, free: int) -> list[Job]:
        """Jobs that join the batch with this key."""
        with self._changed:
            heads = [queue[0][0] for queue in self._waiting.values() if queue]
            if not heads or self._stopping or self._calls or any(engine.key(job.tenant) != key for job in heads):
                return []
            if heads[0].n > free and free < self._limits.batch:  # others must not take its rows one by one
                return []
            return self._take(engine, key, free)

    def _take(self, engine: Engine, key: Hashable, rows: int) -> list[Job]:
        """The next jobs with this key, in turns between tenants, for a number of free rows; at least one."""
        for name in [name for name, queue in self._waiting.items() if not queue]:
            del self._waiting[name]
        first = next(iter(self._waiting))
        self._waiting.move_to_end(first)
        order = [first, *(name for name in self._waiting if name != first)]
        jobs: list[Job] = []
        more = True
        while more:
            more = False
            for queue in (self._waiting[name] for name in order):
                if not queue or engine.key(queue[0][0].tenant) != key or (jobs and queue[0][0].n > rows):
                    continue
                job, place = queue.popleft()
                place.release()
                jobs.append(job)
                rows, more = rows - job.n, True
        return jobs

    def _answer(self, engine: Engine, jobs: list[Job]) -> bool:
        begin = time.monotonic()
        key = engine.key(jobs[0].tenant)
        total = self._running = sum(job.n for job in jobs)
        alive = True

        def more(free: int) -> list[Job]:
            nonlocal total
            self._running = engine.batch - free
            joining = self._joining(engine, key, free)
            jobs.extend(joining)
            count = sum(job.n for job in joining)
            total, self._running = total + count, self._running + count
            return joining

        try:
            engine.answer(jobs.copy(), more)
        except SteeringError as error:
            log.error("steering failed, nothing was answered: %s", error)
            self._fail_jobs(jobs, error)
            alive = self._prove_again(engine)
        except Exception as error:
            log.exception("a batch failed")
            self._fail_jobs(jobs, error)
        seconds = time.monotonic() - begin
        # of as many answers as fit into the engine at once
        self._mean_seconds += (seconds * min(1.0, engine.batch / total) - self._mean_seconds) / 4
        self._last_rows, self._running = total, 0
        self._observed(total, seconds)
        return alive

    def _prove_again(self, engine: Engine) -> bool:
        try:
            engine.prove_again(self.proven)
        except Exception as error:
            self._fail("the model can no longer be steered", error)
            return False
        return True

    @property
    def proven(self) -> tuple[Tenant, ...]:
        """The tenants in force; set by the owner."""
        return self._proven

    @proven.setter
    def proven(self, tenants: tuple[Tenant, ...]) -> None:
        self._proven = tenants
        self.tenants = len({tenant.name for tenant in tenants})

    _proven: tuple[Tenant, ...] = ()

    def _fail(self, reason: str, error: Exception) -> None:
        self._end(reason)
        self._failed(error)

    def _end(self, reason: str) -> None:
        """Answer nothing any more."""
        with self._changed:
            self.error = reason
            entries = [entry for queue in self._waiting.values() for entry in queue]
            self._waiting.clear()
            calls, self._calls = self._calls, deque()
        for _, future in calls:
            future.set_exception(SarsteerError(reason))
        for _, place in entries:
            place.release()
        self._fail_jobs([job for job, _ in entries], ApiError(503, reason, code="not_ready"))

    def _fail_jobs(self, jobs: list[Job], error: Exception) -> None:
        for job in jobs:
            job.fail(error)
        self._outbox.flush()
