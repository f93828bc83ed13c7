"""A site's process: join a server, and answer its steps until the calibration has ended."""

from __future__ import annotations

import json
import os
import secrets
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sarsteer.errors import MissingExtraError
from sarsteer.federated.errors import FederationError
from sarsteer.federated.identity import Identity
from sarsteer.federated.site import Site
from sarsteer.federated.wire import Message
from sarsteer.files import write_text

_PAUSE = 1.0


def join(
    url: str,
    site: Site,
    identity: Identity,
    *,
    ca: Path | None = None,
    state: Path | None = None,
    patience: float = 300.0,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Take part in a calibration; returns what the server says about the result.

    Args:
        url: the server's, ``https://HOST:PORT``.
        site: answers the steps.
        identity: the site's key, which signs requests.
        ca: the certificate that the server must have, or the authority's; by default the system's authorities.
        state: a folder that lets a process that was started again continue. It holds the site's secrets of the round.
        patience: how long an unreachable server is tried again, in seconds.
        report: called with a line about what happens.

    Raises:
        FederationError: the server refused the site, cannot be reached or is not the one of the certificate, or the
            calibration failed.

    """
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("federated calibration", "federated") from None
    from sarsteer import __version__

    if not url.startswith("https://"):
        raise FederationError(f"the server's address must begin with https://, not {url!r}")
    report = report or (lambda _: None)
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise FederationError(f"is not a certificate ({error})", place=str(ca)) from None
    token = _token(state)
    memory = None if state is None else state / "site.safetensors"
    if memory is not None and memory.exists():
        site.restore(_read(memory))
    with httpx.Client(verify=context, timeout=httpx.Timeout(60.0, connect=10.0), trust_env=False) as client:

        def post(path: str, message: Message) -> tuple[int, Message | None]:
            body = message.to_bytes()
            headers = {"x-site": site.name, "x-signature": identity.sign(b"request", path.encode(), body)}
            began = time.monotonic()
            lost = False
            while True:
                try:
                    response = client.post(url.rstrip("/") + path, content=body, headers=headers)
                    break
                except httpx.TransportError as error:
                    if "CERTIFICATE" in str(error).upper():
                        raise FederationError(
                            f"the server at {url} has another certificate than expected ({error}); pass its own with "
                            "--ca, and check the address"
                        ) from None
                    if time.monotonic() - began > patience:
                        raise FederationError(f"the server at {url} cannot be reached ({error}); check it") from None
                    if not lost:
                        report(f"waiting for the server at {url}")
                    lost = True
                    time.sleep(_PAUSE)
                except httpx.InvalidURL as error:
                    raise FederationError(f"{url!r} is not an address ({error})") from None
            if response.status_code == 204:
                return 0, None
            reply = Message.from_bytes(response.content)
            if reply.step == "refused":
                raise FederationError(f"the server refused this site: {reply.values['message']}")
            return int(response.headers.get("x-step", 0)), reply

        post("/join", Message("join", {"plan": site.plan.digest, "sarsteer": __version__, "token": token}))
        report(f"joined {url}")
        step, answer, rounds = 0, Message("wait"), 0
        while True:
            # "wait" is no reply: the server has the last one already
            sent = Message(answer.step, {"token": token, "step": step, "reply": dict(answer.values)}, answer.arrays)
            number, task = post("/next", sent)
            if task is None:
                answer = Message("wait")
                continue
            if task.step == "failed":
                raise FederationError(f"the calibration failed: {task.values['message']}")
            if task.step == "done":
                return dict(task.values)
            step, answer = number, site.handle(task)
            if memory is not None:
                _write(memory, site.state())
            if answer.step == "error":
                report(f"step {task.step} was refused: {answer.values['message']}")
            if site.rounds != rounds:
                rounds = site.rounds
                report(f"round {rounds} of {site.plan.rounds} is done")


def _read(memory: Path) -> Message:
    try:
        return Message.from_bytes(memory.read_bytes())
    except (FederationError, OSError):
        raise FederationError("is damaged; delete it", place=str(memory)) from None


def _write(memory: Path, state: Message) -> None:
    """Readable only by its owner: it holds secrets."""
    temporary = memory.with_suffix(".tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(state.to_bytes())
        os.replace(temporary, memory)
    except OSError as error:
        raise FederationError(f"cannot be written ({error.strerror})", place=str(memory)) from None


def _token(state: Path | None) -> str:
    if state is None:
        return secrets.token_hex(16)
    file = state / "token.json"
    try:
        if file.exists():
            return str(json.loads(file.read_text(encoding="utf-8"))["token"])
    except (OSError, ValueError, KeyError, TypeError):
        raise FederationError("is damaged; delete it", place=str(file)) from None
    state.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(16)
    write_text(file, json.dumps({"token": token}))
    file.chmod(0o600)
    return token
