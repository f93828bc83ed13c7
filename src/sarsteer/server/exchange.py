"""One request to the model, from its arrival to its record: what was decided, answered, counted and logged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sarsteer.judges.keywords import is_refusal
from sarsteer.server.audit import AuditLog
from sarsteer.server.job import Finished, Job, Started
from sarsteer.server.metrics import Metrics
from sarsteer.server.tenant import Tenant
from sarsteer.steering.gate.gate import Decision


@dataclass(eq=False)
class Exchange:
    """What is known about one request.

    Attributes:
        request_id: in the response's header and in the audit log.
        tenant: whose request it is.
        metrics, audit: where it is recorded.
        model: digest of the model's weights.
        content: whether the audit log includes texts.

    """

    request_id: str
    tenant: Tenant
    metrics: Metrics
    audit: AuditLog | None
    model: str
    content: bool = False
    job: Job | None = None
    decision: Decision | None = None
    prompt_tokens: int = 0
    answers: list[Finished] = field(default_factory=list)
    arrived: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _closed: bool = False

    def started(self, event: Started) -> None:
        """The first token came."""
        self._first = time.monotonic()
        self.decision, self.prompt_tokens = event.decision, event.prompt_tokens
        self.metrics.first_token.labels(self.tenant.name).observe(self._first - self.arrived)
        self.metrics.decisions.labels(self.tenant.name, self.tenant.mode, self.outcome).inc()

    @property
    def outcome(self) -> str | None:
        """What was decided; None before the first token."""
        return None if self._first is None else self.tenant.outcome(self.decision)

    @property
    def complete(self) -> bool:
        """Whether every answer is finished."""
        return self.job is not None and len(self.answers) == self.job.n

    def headers(self) -> dict[str, str]:
        """Headers of the response: the request's id, and the decision as far as the tenant exposes it."""
        headers = {"X-Request-Id": self.request_id}
        names = {
            "decision": "X-Sarsteer-Decision",
            "mode": "X-Sarsteer-Mode",
            "score": "X-Sarsteer-Score",
            "strength": "X-Sarsteer-Strength",
        }
        described = self.tenant.describe(self.decision, self.tenant.expose) if self._first is not None else {}
        return headers | {names[key]: _text(value) for key, value in described.items() if key in names}

    def described(self) -> dict[str, Any]:
        """The decision for the response's body."""
        return self.tenant.describe(self.decision, self.tenant.expose)

    def close(self, status: int, code: str | None = None) -> None:
        """Count and log the request, once."""
        if self._closed:
            return
        self._closed = True
        name, now = self.tenant.name, time.monotonic()
        self.metrics.requests.labels(name, str(status)).inc()
        if self.complete:
            self.metrics.last_token.labels(name).observe(now - self.arrived)
        self.metrics.tokens.labels(name, "prompt").inc(self.prompt_tokens)
        self.metrics.tokens.labels(name, "completion").inc(sum(answer.tokens for answer in self.answers))
        refused = [_refused(answer) for answer in self.answers]
        for kind in filter(None, refused):
            self.metrics.refusals.labels(name, kind).inc()
        if self.audit is not None:
            self.audit.write(self._record(status, code, now, refused))

    def _record(self, status: int, code: str | None, now: float, refused: Sequence[str | None]) -> dict[str, Any]:
        decision, job = self.decision, self.job
        opening = 1.0 if decision is None else decision.opening
        record: dict[str, Any] = {
            "request_id": self.request_id,
            "tenant": self.tenant.name,
            "status": status,
            "error": code,
            "mode": self.tenant.mode,
            "decision": self.outcome,
            "score": None if decision is None else decision.score,
            "distance": None if decision is None else decision.distance,
            "out_of_distribution": None if decision is None else decision.out_of_distribution,
            "strength": None if self._first is None or self.tenant.shadow else self.tenant.strength.alpha * opening,
            "alpha": self.tenant.strength.alpha,
            "model": self.model,
            "artifact": self.tenant.artifact,
            "vectors": self.tenant.strength.digest,
            "stream": None if job is None else job.stream,
            "n": None if job is None else job.n,
            "temperature": None if job is None else job.temperature,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": sum(answer.tokens for answer in self.answers),
            "finish_reasons": [answer.reason for answer in self.answers],
            "refused": refused,
            "first_token_ms": None if self._first is None else round(1000 * (self._first - self.arrived), 1),
            "total_ms": round(1000 * (now - self.arrived), 1),
        }
        if self.content and job is not None:
            record["messages"] = [
                {"role": message["role"], "content": [_logged(part) for part in message["content"]]}
                for message in job.conversation
            ]
            record["answers"] = [answer.text for answer in self.answers]
        return record


def _refused(answer: Finished) -> str | None:
    """``policy`` for the operator's text, ``text`` for an answer with a phrase of refusal."""
    if answer.reason == "content_filter":
        return "policy"
    return "text" if is_refusal(answer.text) else None


def _logged(part: dict[str, Any]) -> Any:
    """A part without its media."""
    return part["text"] if part["type"] == "text" else {"type": part["type"]}


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
