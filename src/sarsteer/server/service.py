"""What all requests of a server share: policy, model thread, metrics, audit log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sarsteer import __version__
from sarsteer.errors import SarsteerError
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.server.audit import AuditLog
from sarsteer.server.auth import bearer
from sarsteer.server.engine import Engine
from sarsteer.server.limits import Limits
from sarsteer.server.metrics import Metrics
from sarsteer.server.outbox import Outbox
from sarsteer.server.policy import Policy
from sarsteer.server.scheduler import Scheduler
from sarsteer.server.tenant import Tenant

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """How a server is started.

    Attributes:
        model_name: what requests call the model.
        load_model: loads it; called in the model's thread.
        read_policy: reads the policy, at the start and on SIGHUP.
        limits: what is accepted.
        audit_log: file of the audit log; None for none.
        audit_content: whether the audit log includes texts.
        allow_other_model: steer a model other than the calibrated one.

    """

    model_name: str
    load_model: Callable[[], AudioLanguageModel]
    read_policy: Callable[[], Policy]
    limits: Limits = field(default_factory=Limits)
    audit_log: Path | None = None
    audit_content: bool = False
    allow_other_model: bool = False


class Service:
    """A server's state. Create it in the main thread; ``start`` it in the event loop.

    Args:
        settings: how the server is started.
        policy: the first policy.

    """

    def __init__(self, settings: ServerSettings, policy: Policy) -> None:
        self.settings, self.policy = settings, policy
        self.metrics = Metrics()
        self.audit = None if settings.audit_log is None else AuditLog(settings.audit_log, self.metrics.audit_errors.inc)
        self.created = int(time.time())
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.on_ready: Callable[[], None] = lambda: None
        self.last_reload: dict[str, Any] | None = None
        self._reloading: asyncio.Lock | None = None
        self.model: AudioLanguageModel | None = None
        self.model_digest = ""
        self.outbox: Outbox
        self.scheduler: Scheduler

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load the model; called by the event loop."""
        self._reloading = asyncio.Lock()
        self.outbox = Outbox(asyncio.get_running_loop())
        self.scheduler = Scheduler(
            self._load, self.settings.limits, self.outbox, self._failed, self.metrics.observe_batch
        )
        self.scheduler.proven = self.policy.tenants
        self.metrics.watch(lambda: self.scheduler.ready, lambda: self.scheduler.queued, lambda: self.scheduler.running)
        self.scheduler.start()

    def stop(self) -> None:
        """End the model's thread, and write what is left of the audit log."""
        self.scheduler.stop()
        if self.audit is not None:
            self.audit.close()

    def _load(self) -> Engine:
        model = self.settings.load_model()
        engine = Engine(
            model,
            self.settings.limits.batch,
            self.outbox.flush,
            allow_other_model=self.settings.allow_other_model,
        )
        engine.prove(self.policy.tenants)
        self.model, self.model_digest = model, model.fingerprint.digest
        self.on_ready()
        return engine

    def _failed(self, error: Exception) -> None:
        self.failure = error
        self.on_failure()

    # ---- policy --------------------------------------------------------------------------------------------------

    def tenant_for(self, authorization: str | None) -> Tenant:
        """The tenant of a request with this ``Authorization`` header; raises ``ApiError`` for an unknown key."""
        return self.policy.tenant_for(bearer(authorization))

    async def reload(self) -> bool:
        """Read the policy again, prove it, and use it for requests that arrive from then on.

        Requests that were accepted before are answered as their tenant was then. If anything is wrong, nothing changes.
        """
        assert self._reloading is not None
        async with self._reloading:
            try:
                policy = await asyncio.to_thread(self.settings.read_policy)
                if policy.keys != self.policy.keys:
                    raise SarsteerError("the reloaded policy would remove or add the need for keys; restart the server")
                await asyncio.wrap_future(self.scheduler.call(lambda engine: engine.prove(policy.tenants)))
            except Exception as error:
                reason = str(error) if isinstance(error, SarsteerError) else "internal error"
                log.error("the policy was not reloaded, the previous one stays in force: %s", error)
                self._reloaded("failed", reason)
                return False
            self.policy = policy
            self.scheduler.proven = policy.tenants
            log.warning("policy reloaded: %d tenants", len(policy.tenants))
            self._reloaded("ok", None)
            return True

    def _reloaded(self, result: str, reason: str | None) -> None:
        self.metrics.reloads.labels(result).inc()
        self.last_reload = {"result": result, "time": int(time.time()), "reason": reason}

    # ---- status --------------------------------------------------------------------------------------------------

    def status(self, tenants: tuple[Tenant, ...]) -> dict[str, Any]:
        """What is attached, and how these tenants are defended, as JSON; without keys and paths."""
        scheduler = self.scheduler
        model: Any = self.model
        return {
            "sarsteer": __version__,
            "engine": "transformers",
            "state": "ready" if scheduler.ready else scheduler.error,
            "model": {
                "name": self.settings.model_name,
                "fingerprint": self.model_digest or None,
                "family": None if model is None else model.family_name,
                "dtype": None if model is None else str(model.dtype).removeprefix("torch."),
                "device": None if model is None else model.device.type,
            },
            "policy": self.policy.digest or None,
            "tenants": [dict(tenant.settings) for tenant in {tenant.name: tenant for tenant in tenants}.values()],
            "override": "none: clients cannot change the defense",
            "audit": None if self.audit is None else ("failing" if self.audit.failing else "writing"),
            "last_reload": self.last_reload and {key: self.last_reload[key] for key in ("result", "time")},
        }
