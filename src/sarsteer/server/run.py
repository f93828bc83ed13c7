"""Run a server until it is stopped."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

import uvicorn

from sarsteer.errors import SarsteerError
from sarsteer.server.address import address_of, bind, is_loopback
from sarsteer.server.app import create_app
from sarsteer.server.service import ServerSettings, Service


def serve(
    settings: ServerSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    drain_seconds: int = 120,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or SIGINT; then no connection is accepted, and running requests end.

    Args:
        settings: what is served.
        host: an address of this machine. Off loopback, requests need a key.
        port: 0 picks a free one.
        drain_seconds: the longest time that running requests get when the server stops.
        announce: receives a line when the server answers.

    Raises:
        SarsteerError: the policy is invalid, a key is missing, the port is in use, or the model cannot be steered.

    """
    policy = settings.read_policy()
    if not policy.keys and not is_loopback(host):
        raise SarsteerError(
            f"{host} can be reached from other machines, and this server has no API key; set SARSTEER_API_KEY, pass "
            "--api-key-file or --policy, or use --host 127.0.0.1"
        )
    listener = bind(host, port)
    previous: dict[int, Any] = {}
    try:
        logging.getLogger("sarsteer").setLevel(logging.WARNING)
        service = Service(settings, policy)
        config = uvicorn.Config(
            create_app(service),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=drain_seconds,
        )
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        address = f"{address_of(host, listener)}/v1"
        for text in sorted({tenant.instruction for tenant in policy.tenants if tenant.strength.gate is not None}):
            announce(f"note: a gate was fitted with the text {text!r}; beside another text it may decide wrongly")
        service.on_failure = stop
        service.on_ready = lambda: announce(f"steering is proven; serving {settings.model_name} on {address}")
        # uvicorn raises the signal that stopped it again at its end; it must not end the process before the cleanup
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[int(number)] = signal.signal(number, stop)
        server.run(sockets=[listener])
    finally:
        for stopped_by, handler in previous.items():
            signal.signal(stopped_by, handler)
        listener.close()
    if service.failure is not None:
        raise service.failure
