"""The model behind a studio: one thread answers, calibrates and reads activations, in the order of the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs
from sarsteer.messages import Message
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.server.engine import Engine
from sarsteer.server.errors import ApiError
from sarsteer.server.job import Job
from sarsteer.server.limits import MIB, Limits
from sarsteer.server.outbox import Inbox, Outbox
from sarsteer.server.scheduler import Place, Scheduler
from sarsteer.server.tenant import Tenant
from sarsteer.steering.artifact import Steering
from sarsteer.steering.calibration import calibrate
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.strength import ResolvedStrength
from sarsteer.studio.choice import Artifact

BATCH = 16
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StudioSettings:
    """How a studio is started.

    Attributes:
        model_name: the model's name, for readers.
        load_model: loads it; called in the model's thread.
        artifact: the steering file that visitors begin with.
        limits: what is accepted; of ``tokens``, every answer takes as many as it needs.
        allow_other_model: steer a model other than the calibrated one.

    """

    model_name: str
    load_model: Callable[[], AudioLanguageModel]
    artifact: Artifact
    limits: Limits = field(default_factory=lambda: Limits(tokens=256, body_bytes=32 * MIB))
    allow_other_model: bool = False


class Worker:
    """Owns the model's thread. Create it in the event loop, then ``start`` it.

    Args:
        settings: how the studio is started.
        on_ready: called in the model's thread when the steering is proven.
        on_failure: called in the model's thread if the model cannot be loaded, or can no longer be steered.

    """

    def __init__(
        self, settings: StudioSettings, on_ready: Callable[[], None], on_failure: Callable[[Exception], None]
    ) -> None:
        self.settings, self._on_ready = settings, on_ready
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(self._loop)
        self.scheduler = Scheduler(self._load, settings.limits, self._outbox, on_failure)
        self.model: AudioLanguageModel | None = None

    def start(self) -> None:
        """Begin to load the model."""
        self.scheduler.proven = (self.first_tenant,)
        self.scheduler.start()

    def stop(self) -> None:
        """End the model's thread."""
        self.scheduler.stop()

    @cached_property
    def first_tenant(self) -> Tenant:
        """The file that visitors begin with, at its own strength."""
        artifact = self.settings.artifact
        return self.tenant("start", artifact, artifact.steering.resolve())

    @staticmethod
    def tenant(name: str, artifact: Artifact, strength: ResolvedStrength) -> Tenant:
        """Whose requests are steered by ``strength``."""
        return Tenant(name, strength, artifact.steering, artifact.name, expose="score")

    @staticmethod
    def undefended(name: str, artifact: Artifact, gate: Gate | None) -> Tenant:
        """Whose requests are not steered: zeros are added, which change no bit.

        Args:
            name: the visitor's.
            artifact: the steering file.
            gate: of the defended answer, which can then share a batch with this one. It decides, and changes nothing.

        """
        zeros = ResolvedStrength(torch.zeros_like(artifact.steering.refusal), 0.0, gate)
        return Tenant(name, zeros, artifact.steering, artifact.name)

    def submit(self, tenants: list[Tenant], conversation: list[Message]) -> list[tuple[Job, Inbox]]:
        """Queue an answer for each of these tenants, together, so that they can share a batch.

        Returns:
            their jobs, and where the events of each come.

        Raises:
            ApiError: the model is not ready, or the queue is full. Nothing was queued.

        """
        places: list[Place] = []
        queued: list[tuple[Job, Inbox]] = []
        try:
            for tenant in tenants:
                places.append(self.scheduler.reserve(tenant))
            for tenant, place in zip(tenants, places, strict=True):
                inbox: Inbox = asyncio.Queue()
                job = Job(tenant, conversation, self.settings.limits.tokens, self._outbox.to(inbox), stream=True)
                self.scheduler.submit(job, place)
                queued.append((job, inbox))
        except ApiError:
            for place in places:
                place.release()
            raise
        return queued

    async def activations(self, tenants: list[Tenant], conversation: list[Message]) -> list[torch.Tensor]:
        """The activations ``[L, D]`` at the last prompt token, under each tenant."""

        def read(engine: Engine) -> list[torch.Tensor]:
            return [engine.activations(tenant, conversation) for tenant in tenants]

        return await asyncio.wrap_future(self.scheduler.call(read))

    async def calibrate(
        self, pairs: Pairs, benign: list[Item], report: Report, stopped: Callable[[], bool]
    ) -> Steering:
        """Calibrate the model on a visitor's clips. Everybody else's requests wait meanwhile.

        Args:
            pairs: harmful requests and their twins.
            benign: safe requests without a twin.
            report: called in the event loop with a stage, the steps done, and all steps.
            stopped: called in the model's thread; True ends the calibration.

        Raises:
            CalibrationError, AudioError: the clips cannot be calibrated on.
            Stopped: ``stopped`` returned True.

        """

        def step(stage: str) -> Callable[[int, int], None]:
            def progress(done: int, total: int) -> None:
                if stopped():
                    raise Stopped
                self._loop.call_soon_threadsafe(report, stage, done, total)

            return progress

        def run(engine: Engine) -> Steering:
            engine.detach()  # calibration reads unsteered activations; the next answer attaches and proves again
            return calibrate(
                engine.model,
                pairs,
                benign=benign,
                sources={"pairs": "clips uploaded to sarsteer studio"},
                batch_size=BATCH,
                progress=step("Calibrating"),
                gate_progress=step("Fitting the gate"),
            )

        return await asyncio.wrap_future(self.scheduler.call(run))

    def _load(self) -> Engine:
        model = self.settings.load_model()
        engine = Engine(
            model,
            self.settings.limits.batch,
            self._outbox.flush,
            allow_other_model=self.settings.allow_other_model,
        )
        engine.prove(self.scheduler.proven)
        self.model = model
        self._on_ready()
        return engine


class Stopped(Exception):
    """A calibration that nobody waits for any more."""
