"""What is known about each visitor. Nothing of one visitor reaches another."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from sarsteer.audio import Clip
from sarsteer.server.job import Failed, Job
from sarsteer.server.outbox import Inbox
from sarsteer.server.scheduler import Scheduler
from sarsteer.studio.choice import Artifact

MOST = 64
"""Visitors that are remembered. The one that was away for longest is forgotten, and begins again."""


class Superseded(Exception):
    """The visitor asked for something newer, or left."""


@dataclass(eq=False)
class Visit:
    """One visitor.

    Attributes:
        name: of the session.
        artifact: the steering file in use.
        clip: the newest valid clip.
        undefended: the finished undefended answer to it.
        resting: the unsteered activations ``[L, D]`` for it.
        asked: whether an answer to the clip was asked for.
        turn: counts requests; only the newest one is answered.
        lock: held while the clip changes.

    """

    name: str
    artifact: Artifact
    clip: Clip | None = None
    undefended: str | None = None
    resting: torch.Tensor | None = None
    asked: bool = False
    turn: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _open: list[tuple[Job, Inbox]] = field(default_factory=list)

    def begin(self, scheduler: Scheduler) -> int:
        """The number of a new request; everything earlier is cancelled."""
        self.turn += 1
        opened, self._open = self._open, []
        for job, inbox in opened:
            scheduler.cancel(job)
            inbox.put_nowait(Failed(Superseded()))  # a cancelled job reports nothing more
        return self.turn

    def wait_for(self, job: Job, inbox: Inbox) -> None:
        """Remember a job, so that it can be cancelled."""
        self._open.append((job, inbox))

    def use_clip(self, clip: Clip | None) -> None:
        """Answer another clip from now on."""
        if clip is None or self.clip is None or clip.digest != self.clip.digest:
            self._forget_answer()
        self.clip = clip

    def use_artifact(self, artifact: Artifact) -> None:
        """Use another steering file from now on, whose instruction may be another one."""
        self.artifact = artifact
        self._forget_answer()

    def _forget_answer(self) -> None:
        self.undefended, self.resting, self.asked = None, None, False


class Visits:
    """All visitors, by session."""

    def __init__(self, artifact: Artifact, scheduler: Scheduler) -> None:
        self._artifact, self._scheduler = artifact, scheduler
        self._known: OrderedDict[str, Visit] = OrderedDict()

    def of(self, session: str) -> Visit:
        """The visitor of a session."""
        if session not in self._known:
            while len(self._known) >= MOST:
                self.forget(next(iter(self._known)))
            self._known[session] = Visit(session, self._artifact)
        self._known.move_to_end(session)
        return self._known[session]

    def forget(self, session: str) -> None:
        """The visitor left: cancel what nobody waits for."""
        visit = self._known.pop(session, None)
        if visit is not None:
            visit.begin(self._scheduler)
