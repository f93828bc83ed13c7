"""The server: sites ask it over HTTPS for their next step, so that no site has to accept connections.

``POST /join`` and ``POST /next``, with a ``Message`` as body. ``/next`` carries the reply to the last step and waits
for the next one; asking twice for the same step is harmless, because steps have numbers. Each request is signed by the
site's key.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sarsteer.errors import MissingExtraError
from sarsteer.federated.coordinator import Coordinator, Round
from sarsteer.federated.errors import FederationError
from sarsteer.federated.identity import verify
from sarsteer.federated.plan import Plan
from sarsteer.federated.state import ServerState
from sarsteer.federated.wire import Message, text_of
from sarsteer.steering.artifact import Steering
from sarsteer.steering.pooled.rounds import BINS, Query, layout_of
from sarsteer.steering.pooled.sums import size

POLL_SECONDS = 5.0
"""How long ``/next`` waits before it answers that there is nothing to do yet."""
_ROOM = 1 << 20


class Mailboxes:
    """The ``Transport`` of a server: one step at a time for each site.

    Args:
        seconds: how long a site may take for a step.

    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._changed = threading.Condition()
        self._step = int(time.time() * 1000)  # a server that was started again uses higher numbers than before
        self._tasks: dict[str, tuple[int, bytes]] = {}
        self._replies: dict[str, Message] = {}
        self._end: bytes | None = None

    def exchange(self, messages: Mapping[str, Message]) -> Mapping[str, Message]:
        """See ``Transport``."""
        with self._changed:
            self._step += 1
            encoded: dict[int, bytes] = {}  # all sites often get the same message
            self._tasks = {
                name: (self._step, encoded.setdefault(id(one), one.to_bytes())) for name, one in messages.items()
            }
            self._replies = {}
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._replies) == len(messages), self._seconds)
            replies, self._tasks = self._replies, {}
            return replies

    def finish(self, message: Message) -> None:
        """Every site gets this message from now on."""
        with self._changed:
            self._end = message.to_bytes()
            self._changed.notify_all()

    def reply(self, name: str, step: int, message: Message) -> None:
        """A site's reply; one to an earlier step is ignored."""
        with self._changed:
            if self._tasks.get(name, (None, b""))[0] == step:
                self._replies[name] = message
                self._changed.notify_all()

    def next(self, name: str, after: int) -> tuple[int, bytes] | None:
        """The site's step that it has not answered yet; None after ``POLL_SECONDS`` without one."""
        with self._changed:

            def ready() -> bool:
                return self._end is not None or self._tasks.get(name, (after, b""))[0] != after

            if not self._changed.wait_for(ready, POLL_SECONDS):
                return None
            return (0, self._end) if self._end is not None else self._tasks[name]


class Federation:
    """A server's part of one calibration: sites join, then the rounds run.

    Args:
        plan: the plan.
        folder: for the state; a server that is started again with it continues.
        wait_seconds: how long sites may take to join once enough have; rounds start earlier when all have.
        step_seconds: how long a site may take for a step.
        report: called with a line about what happens.

    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        wait_seconds: float = 60.0,
        step_seconds: float = 120.0,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.plan, self.state = plan, ServerState(folder, plan)
        self.mailboxes = Mailboxes(step_seconds)
        self._wait_seconds = wait_seconds
        self._report = report or (lambda _: None)
        self._joined = threading.Condition()
        self._started = bool(self.state.rounds)
        gated = max(1, len(plan.setting.gate_layers))
        largest = size(layout_of(plan.setting, Query("statistics")))
        scores = 2 * gated * len(plan.setting.classes) * (BINS + 2)
        self.largest_body = 8 * max(largest, scores) + _ROOM

    def join(self, name: str, message: Message) -> Message:
        """Let a site in.

        Raises:
            FederationError: the site has another plan, model, precision or version, or has joined already.

        """
        from sarsteer import __version__

        values = message.values
        if values.get("plan") != self.plan.digest:
            raise FederationError(
                f"site {name} has another plan ({str(values.get('plan'))[:12]}) than the server "
                f"({self.plan.digest[:12]}); give all sites the same file"
            )
        if values.get("sarsteer") != __version__:
            raise FederationError(
                f"site {name} runs sarsteer {values.get('sarsteer')}, the server {__version__}; update"
            )
        token = str(values.get("token"))
        with self._joined:
            known = self.state.tokens.get(name)
            if known is not None and known != token:
                raise FederationError(
                    f"site {name} has joined already; stop the other process, or start this one with its --state folder"
                )
            if known is None and self._started:
                raise FederationError(f"the rounds have started without site {name}; it is too late to join")
            if known is None:
                self.state.join(name, token)
                self._report(f"{name} joined: {len(self.state.tokens)} of {len(self.plan.sites)} sites")
            self._joined.notify_all()
        return Message("joined")

    def run(self) -> Steering:
        """Wait for sites, run the rounds, and tell all sites how it ended."""
        try:
            with self._joined:
                self._joined.wait_for(lambda: len(self.state.tokens) >= self.plan.min_sites)
                if not self._started:
                    self._joined.wait_for(lambda: len(self.state.tokens) == len(self.plan.sites), self._wait_seconds)
                self._started = True
            steering = Coordinator(
                self.plan, self.mailboxes, list(self.state.tokens), self.state.rounds, self._finished, self._report
            ).run()
        except BaseException as error:
            self.mailboxes.finish(Message("failed", {"message": text_of(error)}))
            raise
        self.mailboxes.finish(Message("done", {"digest": steering.digest, **steering.metadata["federated"]}))
        return steering

    def _finished(self, finished: Round) -> None:
        self.state.add(finished)


def create_app(federation: Federation) -> Any:
    """The server's application."""
    try:
        from fastapi import FastAPI
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import Response
    except ImportError:
        raise MissingExtraError("federated calibration", "federated") from None

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def message_of(request: Request) -> tuple[str, Message]:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > federation.largest_body:
                raise FederationError(f"a message of more than {federation.largest_body} bytes; update the site")
        name = request.headers.get("x-site", "")
        signature = request.headers.get("x-signature", "")
        public = federation.plan.sites.get(name)
        if public is None or not verify(public, signature, b"request", request.url.path.encode(), bytes(body)):
            raise FederationError(f"site {name!r} is not in the plan, or its key is another; plan with its key")
        return name, Message.from_bytes(bytes(body))

    def answer(message: bytes, status: int = 200, step: int = 0) -> Response:
        return Response(message, status, {"x-step": str(step)}, "application/octet-stream")

    def refuse(error: FederationError) -> Response:
        return answer(Message("refused", {"message": text_of(error)}).to_bytes(), 403)

    async def join(request: Request) -> Response:
        try:
            return answer(federation.join(*await message_of(request)).to_bytes())
        except FederationError as error:
            return refuse(error)

    async def next_step(request: Request) -> Response:
        try:
            name, message = await message_of(request)
            if message.values.get("token") != federation.state.tokens.get(name, ""):
                raise FederationError(f"site {name} has not joined with this process; join first")
            after = int(message.values.get("step", 0))
        except FederationError as error:
            return refuse(error)
        if message.step != "wait":
            reply = Message(message.step, message.values["reply"], message.arrays)
            federation.mailboxes.reply(name, after, reply)
        found = await run_in_threadpool(federation.mailboxes.next, name, after)
        return answer(b"", 204) if found is None else answer(found[1], step=found[0])

    # annotations are strings here, and these names are local: plain routes need none
    app.add_route("/join", join, methods=["POST"])
    app.add_route("/next", next_step, methods=["POST"])
    return app


def serve(
    federation: Federation,
    host: str,
    port: int,
    certificate: Path,
    key: Path,
    announce: Callable[[str], None],
) -> Steering:
    """Serve until the calibration has ended, and return its steering.

    Raises:
        FederationError: the certificate or the address cannot be used, or too few sites are left.

    """
    import socket

    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("federated calibration", "federated") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise FederationError(f"cannot be used as certificate ({error})", place=str(certificate)) from None
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise FederationError(f"cannot listen on {host}:{port} ({error.strerror}); choose another port") from None
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        create_app(federation),
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        announce(f"serving https://{host}:{listener.getsockname()[1]}, plan {federation.plan.digest[:12]}")
        steering = federation.run()
        time.sleep(min(POLL_SECONDS, 1.0))  # sites that wait get the result
        return steering
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()
