"""Prometheus metrics of a server, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """What is counted. Labels name tenants, never keys or content."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("sarsteer_requests", "Requests by tenant and status.", ("tenant", "status"), registry=r)
        self.decisions = Counter(
            "sarsteer_gate_decisions",
            "Requests by tenant, mode, and decision: open or closed, steered without a gate.",
            ("tenant", "mode", "decision"),
            registry=r,
        )
        self.refusals = Counter(
            "sarsteer_refusals",
            "Refused answers by tenant and kind: text for an answer with a phrase of refusal, policy for refusal_text.",
            ("tenant", "kind"),
            registry=r,
        )
        self.tokens = Counter("sarsteer_tokens", "Tokens by tenant and kind.", ("tenant", "kind"), registry=r)
        self.first_token = Histogram(
            "sarsteer_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            ("tenant",),
            buckets=_SECONDS,
            registry=r,
        )
        self.last_token = Histogram(
            "sarsteer_request_seconds",
            "From a request's arrival to the end of its answer.",
            ("tenant",),
            buckets=_SECONDS,
            registry=r,
        )
        self.batch_rows = Histogram(
            "sarsteer_batch_rows", "Answers per batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=r
        )
        self.batch_seconds = Histogram("sarsteer_batch_seconds", "Time of a batch.", buckets=_SECONDS, registry=r)
        self.reloads = Counter("sarsteer_policy_reloads", "Reloads of the policy by result.", ("result",), registry=r)
        self.audit_errors = Counter("sarsteer_audit_errors", "Audit records that could not be written.", registry=r)

    def watch(self, ready: Callable[[], bool], queued: Callable[[], int], running: Callable[[], int]) -> None:
        """Read these gauges when metrics are read."""
        for name, text, function in (
            ("sarsteer_ready", "Whether steering is proven and requests are answered.", ready),
            ("sarsteer_queue_length", "Requests that wait for the model.", queued),
            ("sarsteer_running", "Answers that are being generated.", running),
        ):
            Gauge(name, text, registry=self.registry).set_function(function)

    def observe_batch(self, rows: int, seconds: float) -> None:
        """One batch has ended."""
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
