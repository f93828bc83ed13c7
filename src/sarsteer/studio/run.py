"""Run the studio until it is stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from sarsteer.data.manifest import Item
from sarsteer.errors import SarsteerError
from sarsteer.server.address import address_of, bind, is_loopback
from sarsteer.studio.examples import copy_examples
from sarsteer.studio.protection import Protection
from sarsteer.studio.worker import StudioSettings, Worker

SHORTEST = 12
"""Characters of a password that protects a public address."""


def read_auth(text: str | None) -> tuple[str, str] | None:
    """User and password from ``USER:PASSWORD``.

    Raises:
        SarsteerError: one of them is missing.

    """
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not colon or not user or not password:
        raise SarsteerError("--auth needs a name and a password, as in USER:PASSWORD")
    return user, password


def check_access(host: str, auth: tuple[str, str] | None) -> None:
    """Refuse to listen beyond this machine without a password.

    Raises:
        SarsteerError: ``auth`` is missing, or its password is too short.

    """
    if is_loopback(host):
        return
    if auth is None:
        raise SarsteerError(
            f"{host} can be reached from other machines, and the studio has no password; give --auth USER:PASSWORD or "
            "SARSTEER_STUDIO_AUTH, or use --host 127.0.0.1"
        )
    if len(auth[1]) < SHORTEST:
        raise SarsteerError(f"the password has {len(auth[1])} characters; give at least {SHORTEST} for {host}")


def serve(
    settings: StudioSettings,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    auth: tuple[str, str] | None = None,
    examples: Sequence[Item] = (),
    results: Path | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: what is served.
        host: an address of this machine. Off loopback, ``auth`` is required.
        port: 0 picks a free one.
        auth: user and password.
        examples: spoken items to begin with.
        results: file of an evaluation, to show at the start.
        announce: receives a line when the studio answers.

    Raises:
        SarsteerError: the password is missing, the port is in use, or the model cannot be steered.

    """
    check_access(host, auth)
    listener = bind(host, port)
    previous: dict[int, Any] = {}
    failure: list[Exception] = []
    with contextlib.ExitStack() as stack:
        stack.callback(listener.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sarsteer-studio-"))).resolve()
        # Gradio reads these when it is imported
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        import gradio as gr
        import uvicorn
        from fastapi import FastAPI

        from sarsteer.studio.look import head, theme
        from sarsteer.studio.page import Studio, build

        for name in ("httpx", "gradio"):
            logging.getLogger(name).setLevel(logging.WARNING)
        studio = Studio(settings, folder, copy_examples(examples, folder), results)
        address = address_of(host, listener)

        def fail(error: Exception) -> None:
            failure.append(error)
            stop()

        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            worker = Worker(settings, lambda: announce(f"steering is proven; the studio is at {address}"), fail)
            studio.start(worker)
            yield
            worker.stop()

        app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
        blocks = build(studio)
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            server_name=host,
            server_port=listener.getsockname()[1],
            footer_links=[],
            run_history=False,
            auth=auth,
            allowed_paths=[],
            show_error=False,
            max_file_size=settings.limits.body_bytes,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=theme(),
            head=str(head()),
        )
        blocks.has_launched = True  # mounted apps otherwise skip Gradio's check of the paths that requests name
        hosts = frozenset({"localhost", "127.0.0.1", "::1", host}) if is_loopback(host) else None
        server = uvicorn.Server(
            uvicorn.Config(
                Protection(app, hosts),
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=3,  # open pages keep a stream open
            )
        )

        def stop(*_: object) -> None:
            server.should_exit = True
            # the streams of open pages are cancelled in the end, and uvicorn logs each with a traceback
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

        for number in (signal.SIGTERM, signal.SIGINT):
            previous[int(number)] = signal.signal(number, stop)
        try:
            server.run(sockets=[listener])
        finally:
            for stopped_by, handler in previous.items():
                signal.signal(stopped_by, handler)
    if failure:
        raise failure[0]
