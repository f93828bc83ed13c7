"""One server process for all tests of this folder: the embedded model, and five tenants with different defenses."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import sarsteer
from sarsteer.data.pairs import Pairs
from sarsteer.steering.strength import Strength

QUESTION = "Please answer the question in the audio."
MONITOR = "monitor-key-0123456789"
REFUSAL = "This hotline does not answer that."
TOKENS = 40
Messages = list[dict[str, Any]]


def key(tenant: str) -> str:
    return f"key-of-{tenant}-0123456789"


TENANTS: dict[str, str] = {
    "weak": "alpha: 0.05",
    "strong": "alpha: 0.2",
    "gated": "{alpha: 0.5, gate: true, expose: score}",
    "hotline": f"{{alpha: 0.5, gate: true, refusal_text: {REFUSAL}}}",
    "shadow": "{alpha: 0.5, gate: true, mode: shadow, expose: none}",
}
STRENGTHS = {
    "weak": Strength(0.05, gate=False),
    "strong": Strength(0.2, gate=False),
    "gated": Strength(0.5, gate=True),
}


def policy_text(**changes: str) -> str:
    lines = ["version: 1", f"monitor: {{key: {MONITOR}}}", "tenants:"]
    for name, settings in (TENANTS | changes).items():
        inner = settings.strip("{}")
        lines.append(f"  - {{name: {name}, key: {key(name)}, steering: steering.safetensors, {inner}}}")
    return "\n".join(lines) + "\n"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """``sarsteer serve`` as a process."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder, self.port = folder, port or free_port()
        self.log = folder / f"log-{self.port}"
        self.audit = folder / "audit.jsonl"
        command = [sys.executable, "-m", "sarsteer", "serve", "sarsteer-tiny", "--engine", "transformers"]
        command += ["--port", str(self.port), "--audit-log", str(self.audit), *options]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=folder
            )

    def wait(self) -> Server:
        for _ in range(1200):
            if self.process.poll() is not None:
                pytest.fail(f"the server ended: {self.log.read_text()[-3000:]}")
            try:
                self.get("/ready")
                return self
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        pytest.fail(f"the server was never ready: {self.log.read_text()[-3000:]}")

    def get(self, path: str, token: str | None = None) -> str:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics", MONITOR).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def eventually(self, condition: Any) -> None:
        """Wait until ``condition()`` holds; a test that never sees it fails."""
        for _ in range(600):
            if condition():
                return
            time.sleep(0.1)
        pytest.fail(f"it never happened: {self.log.read_text()[-2000:]}")

    def client(self, tenant: str = "strong", **options: Any) -> Any:
        import openai

        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key(tenant), max_retries=0, timeout=120, **options
        )

    def ask(self, tenant: str, messages: Messages, **more: Any) -> Any:
        """The raw response of the official client."""
        options: dict[str, Any] = {"model": "sarsteer-tiny", "max_tokens": TOKENS, **more}
        completions = self.client(tenant).chat.completions.with_raw_response
        return completions.create(messages=messages, **options)

    def stream(self, tenant: str, messages: Messages, **more: Any) -> str:
        options: dict[str, Any] = {"model": "sarsteer-tiny", "max_tokens": TOKENS, **more}
        chunks = self.client(tenant).chat.completions.create(messages=messages, stream=True, **options)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=120)


@pytest.fixture(scope="session")
def folder(steering: sarsteer.Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a steering file and a policy."""
    folder = tmp_path_factory.mktemp("server")
    steering.save(folder / "steering.safetensors")
    (folder / "policy.yaml").write_text(policy_text())
    return folder


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    pytest.importorskip("fastapi")
    running = Server(folder, "--policy", "policy.yaml", "--batch-size", "8")
    try:
        yield running.wait()
    finally:
        running.process.kill()
        running.process.wait()


def spoken(clip: Any, text: str = QUESTION) -> Messages:
    """A message with a clip, in OpenAI's form."""
    data = base64.b64encode(Path(clip).read_bytes()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return [{"role": "user", "content": [part, {"type": "text", "text": text}]}]


@dataclass(frozen=True)
class Expected:
    """An answer without a server."""

    text: str
    opened: bool | None


class Offline:
    """Answers of the same model in this process, one at a time."""

    def __init__(
        self, model: sarsteer.AudioLanguageModel, steering: sarsteer.Steering, requests: list[Messages]
    ) -> None:
        self._model, self._steering, self._requests = model, steering, requests
        self._known: dict[str, dict[str, Expected]] = {}

    def answer(self, tenant: str, messages: Messages) -> Expected:
        """The answer to one of the requests."""
        if tenant not in self._known:
            self._known[tenant] = dict(zip(map(json.dumps, self._requests), self._answers(tenant), strict=True))
        return self._known[tenant][json.dumps(messages)]

    def _answers(self, tenant: str) -> list[Expected]:
        if tenant == "hotline":
            gated = [self.answer("gated", messages) for messages in self._requests]
            return [Expected(REFUSAL, True) if one.opened else one for one in gated]
        if tenant == "shadow":
            opened = [self.answer("gated", messages).opened for messages in self._requests]
            texts = self._model.generate(self._requests, TOKENS, batch_size=1)
            return [Expected(text, one) for text, one in zip(texts, opened, strict=True)]
        chosen = STRENGTHS[tenant]
        with self._steering.on(self._model, chosen.alpha, gate=chosen.gate) as handle:
            texts = self._model.generate(self._requests, TOKENS, batch_size=1)
            decisions = [bool(one.opening) for one in handle.decisions] if chosen.gate else [None] * len(texts)
        return [Expected(text, opened) for text, opened in zip(texts, decisions, strict=True)]


@pytest.fixture(scope="session")
def offline(embedded: sarsteer.AudioLanguageModel, steering: sarsteer.Steering, requests: list[Messages]) -> Offline:
    return Offline(embedded, steering, requests)


@pytest.fixture(scope="session")
def requests(test_pairs: Pairs) -> list[Messages]:
    """Spoken requests, harmful and safe ones, and one of several turns."""
    single = [spoken(clip) for pair in test_pairs[:3] for clip in (pair.harmful.audio, pair.safe.audio)]
    turns = [*single[0], {"role": "assistant", "content": "I am sorry."}, *single[3]]
    return [*single, [{"role": "system", "content": "Be brief."}, *turns]]
