"""A server on loopback: it decodes the sound it is sent, tells what it heard, speaks tones, and fails on demand.

What it does is named by the last part of the model's name (``gpt-audio/busy``), or for one request alone by a text
that begins with ``!`` (``!busy``). A name that begins with ``judge-`` makes it judge, as ``judge_replies`` says. A test
may also give it a ``reply`` of its own.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import soundfile
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tests.support.judge_replies import judge_reply, mark_of

KEY = "the-right-key"
WARDEN = "  I cannot help with that.  "


class OpenAIServer:
    """What the server saw, for tests to look at."""

    def __init__(self) -> None:
        self.url = ""
        self.authorization: list[str | None] = []
        self.bodies: list[dict[str, Any]] = []
        self.judged: list[list[dict[str, Any]]] = []
        self.tries: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.hung_up = 0
        self.reply: Callable[[list[dict[str, Any]]], str] | None = None
        self.spoken: list[dict[str, Any]] = []
        self.app = FastAPI()
        self.app.add_api_route("/v1/chat/completions", self._complete, methods=["POST"], response_model=None)
        self.app.add_api_route("/v1/audio/speech", self._speak, methods=["POST"], response_model=None)

    async def _speak(self, request: Request) -> Response:
        """A tone as long as the text; the model's name says what goes wrong."""
        body = await request.json()
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(401, "Incorrect API key provided", "invalid_api_key")
        self.spoken.append(body)
        what = body["model"].rpartition("/")[2]
        if what == "missing":
            return _error(404, "The model `missing` does not exist", "model_not_found")
        if what == "garbage":
            return Response(b"no sound", media_type="audio/wav")
        if what == "fails-late" and len(self.spoken) > 2:
            return _error(400, "voice is tired", "invalid_value")
        times = np.arange(800 * len(body["input"])) / 16_000
        wave = (0.0 if what == "silent" else 0.3) * np.sin(2 * np.pi * 440 * times)
        file = io.BytesIO()
        soundfile.write(file, wave, 16_000, format="WAV", subtype="PCM_16")
        return Response(file.getvalue(), media_type="audio/wav")

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.authorization.append(request.headers.get("authorization"))
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(401, "Incorrect API key provided: the-wr***key", "invalid_api_key")
        self.bodies.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._behave(request, body)
        finally:
            self.in_flight -= 1

    async def _behave(self, request: Request, body: dict[str, Any]) -> Response:
        heard = hear(body["messages"])
        last = heard[-1].rpartition("; ")[2].partition(": ")[2]
        what = last[1:].split()[0] if last.startswith("!") else body["model"].rpartition("/")[2]
        judging = what if what.startswith("judge-") else None
        if judging is not None:
            self.judged.append(body["messages"])
            what = mark_of(body["messages"]) or what
        self.tries[what] += 1
        if what == "slow":
            await asyncio.sleep(random.uniform(0, 0.03))
        if what == "hangs":
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
            self.hung_up += 1
        if what == "busy" or (what == "busy-twice" and self.tries[what] <= 2):
            return _error(429, "Rate limit reached for requests", "rate_limit_exceeded", {"retry-after": "0"})
        if what == "broke":
            return _error(429, "You exceeded your current quota", "insufficient_quota", {"x-should-retry": "false"})
        if what == "fails" or (what == "fails-once" and self.tries[what] == 1):
            return _error(500, "The server had an error", "server_error", {"retry-after-ms": "1"})
        if what == "missing":
            return _error(404, "The model `missing` does not exist", "model_not_found")
        if what == "down":
            return _error(503, "The server is being restarted", "unavailable", {"x-should-retry": "false"})
        if what == "too-long":
            return _error(400, "This model's maximum context length is 99 tokens", "context_length_exceeded")
        if what == "deaf":
            return _error(400, "Invalid value: 'input_audio'.\nThis model takes text only.", "invalid_value")
        if what == "strict":  # as FastAPI itself refuses
            return JSONResponse({"detail": "modalities: extra fields not permitted"}, 422)
        if what == "garbage":
            return Response('{"choices": [{"mess', media_type="application/json")
        if what == "web-page":
            return Response("<html>welcome</html>", media_type="text/html")
        if what == "list":
            return JSONResponse([1, 2])
        if what == "no-choices":
            return JSONResponse({"id": "1", "object": "chat.completion", "choices": []})
        message: dict[str, Any] = {"role": "assistant", "content": "\n" + " | ".join(heard) + " \n"}
        reason = "stop"
        if judging is not None:
            message["content"] = judge_reply(judging, body["messages"])
        if self.reply is not None:
            message["content"] = self.reply(body["messages"])
        if what == "refuses":
            message = {"role": "assistant", "content": None, "refusal": WARDEN}
        elif what == "thinks":
            message["content"], reason = "", "length"
        elif what == "filtered":
            message["content"], reason = None, "content_filter"
        elif what == "empty":
            message["content"] = " "
        if body.get("stream"):
            return StreamingResponse(_chunks(what, message, reason), media_type="text/event-stream")
        choices = [{"index": i, "message": message, "finish_reason": reason} for i in range(body.get("n") or 1)]
        if what == "one-only":
            choices = choices[:1]
        return JSONResponse({"id": "1", "object": "chat.completion", "model": body["model"], "choices": choices})


def hear(messages: list[dict[str, Any]]) -> list[str]:
    """One line a message: its role, its texts, and of each clip the rate, length and loudest pitch."""
    lines = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        lines.append("; ".join(f"{message['role']}: {_hear_part(part)}" for part in parts))
    return lines


def _hear_part(part: dict[str, Any]) -> str:
    if part["type"] == "text":
        return str(part["text"])
    given = part["input_audio"]
    data = base64.b64decode(given["data"], validate=True)
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        assert sound.format == given["format"].upper()
        samples, rate = sound.read(), sound.samplerate
    pitch = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
    return f"{given['format']} of {len(samples)} samples at {rate} Hz, {pitch:.0f} Hz, peak {np.abs(samples).max():.1f}"


async def _chunks(what: str, message: dict[str, Any], reason: str) -> Any:
    field = "refusal" if message.get("refusal") else "content"
    text = message[field] or ""
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    for piece in pieces:
        yield _event({"choices": [{"index": 0, "delta": {field: piece}}]})
        if what == "cut":
            return
        if what == "breaks":
            yield _event({"error": {"message": "the engine died", "code": 500}})
        if what == "noise":
            yield b"data: {]\n\n"
    yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    yield _event({"choices": [], "usage": {"total_tokens": 7}})
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps({'id': '1', 'object': 'chat.completion.chunk', **data})}\n\n".encode()


def _error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "type": "error", "code": code}}, status, headers)


def ready(server: OpenAIServer, patch: pytest.MonkeyPatch, key: str | None = KEY) -> None:
    """Forget what the server saw, and let nothing of the user's environment reach it."""
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        patch.delenv(variable, raising=False)
    if key is not None:
        patch.setenv("OPENAI_API_KEY", key)
    for seen in (server.authorization, server.bodies, server.judged, server.tries, server.spoken):
        seen.clear()
    server.most_in_flight = server.hung_up = 0


@contextmanager
def running() -> Iterator[OpenAIServer]:
    """The server, on a free port, until the block ends."""
    state = OpenAIServer()
    config = uvicorn.Config(state.app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        state.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield state  # the socket listens already: what comes before the server has started waits
        finally:
            server.should_exit = True
            thread.join()
