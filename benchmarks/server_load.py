"""Many clients at once, each answer compared: ``python -m benchmarks.server_load --clients 64 --seconds 300``.

Starts a server with several tenants of the embedded model or another one (``--model``, ``--steering``), or asks a
running one (``--url``, ``--key``, ``--model``).
Clients send spoken requests, some as streams, some of several turns; some leave early, some read slowly. Every
answer must be that of a single client before the load: none may be wrong, mixed up, lost or unsteered. The expected
answers of the server are compared with the model's in this process, if the server was started here. Prints one JSON
document; exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import sarsteer
from sarsteer.prompts import INSTRUCTION

TOKENS = 40
TENANTS = {"weak": "alpha: 0.05", "strong": "alpha: 0.2", "gated": "alpha: 0.5, gate: true"}
Messages = list[dict[str, Any]]


def key(tenant: str) -> str:
    """A tenant's key."""
    return f"key-of-{tenant}-0123456789"


def spoken(clip: Path) -> Messages:
    """A message with a clip."""
    data = base64.b64encode(clip.read_bytes()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return [{"role": "user", "content": [part, {"type": "text", "text": INSTRUCTION}]}]


class Target:
    """The server, and what each request should be answered."""

    def __init__(self, url: str, model: str, keys: dict[str, str]) -> None:
        self.url, self.model, self.keys = url, model, keys
        self.expected: dict[tuple[str, int], tuple[str, str | None]] = {}

    def ask(
        self, tenant: str, messages: Messages, *, stream: bool = False, pause: float = 0.0
    ) -> tuple[str, str | None, float]:
        """Answer, decision and seconds to the first text or the whole answer; ``pause`` seconds after each event."""
        body = {"model": self.model, "messages": messages, "max_tokens": TOKENS, "stream": stream}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.keys[tenant]}"}
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        begin = time.perf_counter()
        with urllib.request.urlopen(request, timeout=600) as response:
            decision = response.headers.get("X-Sarsteer-Decision")
            if not stream:
                text = json.loads(response.read())["choices"][0]["message"]["content"]
                return text, decision, time.perf_counter() - begin
            pieces, ended, first = [], False, 0.0
            for line in response:
                if line.startswith(b"data: [DONE]"):
                    ended = True
                elif line.startswith(b"data: "):
                    chunk = json.loads(line[6:])
                    if "error" in chunk:  # how a stream ends that cannot go on
                        raise RuntimeError(f"the stream ended with an error: {chunk['error']}")
                    pieces += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
                    first = first or time.perf_counter() - begin
                    time.sleep(pause)
            if not ended:
                raise RuntimeError("a stream ended early")
            return "".join(pieces), decision, first

    def leave(self, tenant: str, messages: Messages) -> None:
        """Send a request and close the connection."""
        host, _, port = self.url.split("/")[2].partition(":")
        body = json.dumps({"model": self.model, "messages": messages, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {self.keys[tenant]}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body[: random.randrange(1, len(body) + 1)])
            time.sleep(random.random() / 2)


def run(target: Target, requests: list[Messages], clients: int, seconds: float) -> dict[str, Any]:
    """Load the server, and count what came back."""
    counts: Counter[str] = Counter()
    times: list[float] = []
    wrong: list[str] = []
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            tenant, index = chance.choice(sorted(target.keys)), chance.randrange(len(requests))
            stream = chance.random() < 0.5
            try:
                if chance.random() < 0.05:
                    target.leave(tenant, requests[index])
                    outcome = "left"
                else:
                    slow = stream and chance.random() < 0.1
                    text, decision, took = target.ask(
                        tenant, requests[index], stream=stream, pause=0.2 if slow else 0.0
                    )
                    outcome = "right" if (text, decision) == target.expected[tenant, index] else "wrong"
                    with lock:
                        times.append(took)
                        counts["slow readers"] += slow
                        if outcome == "wrong":
                            wrong.append(f"{tenant}/{index}: {text!r}, {decision}")
            except urllib.error.HTTPError as error:
                outcome = "full" if error.code == 429 else f"HTTP {error.code}"
                time.sleep(float(error.headers.get("Retry-After", 0)) if error.code == 429 else 0)
            except (OSError, RuntimeError) as error:
                outcome = type(error).__name__
            with lock:
                counts[outcome] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(times)
    return {
        "clients": clients,
        "seconds": seconds,
        "outcomes": dict(counts),
        "answers per second": round(counts["right"] / seconds, 2),
        "seconds per answer or first text, median and 99 %": [
            round(statistics.median(ordered), 2),
            round(ordered[int(0.99 * (len(ordered) - 1))], 2),
        ],
        "wrong": wrong[:10],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--pairs", type=int, default=6, help="pairs of clips to send, at least 2")
    parser.add_argument("--url", help="a running server, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="sarsteer-tiny")
    parser.add_argument("--steering", help="steering file; calibrates the embedded model by default")
    arguments = parser.parse_args()
    pairs = sarsteer.load_pairs("sarsteer-tiny", "test")[: max(2, arguments.pairs)]
    requests = [spoken(Path(clip)) for pair in pairs for clip in (pair.harmful.audio, pair.safe.audio)]
    requests.append([*requests[0], {"role": "assistant", "content": "I am sorry."}, *requests[3]])
    if arguments.url:
        result = _against(Target(arguments.url, arguments.model, {"default": arguments.key}), requests, arguments)
    else:
        result = _started(requests, arguments)
    print(json.dumps(result, indent=2))
    bad = set(result["outcomes"]) - {"right", "left", "full", "slow readers"}
    sys.exit(1 if bad or result["wrong"] else 0)


def _against(target: Target, requests: list[Messages], arguments: Any) -> dict[str, Any]:
    for tenant in target.keys:
        for index, messages in enumerate(requests):
            text, decision, _ = target.ask(tenant, messages)
            target.expected[tenant, index] = text, decision
    return run(target, requests, arguments.clients, arguments.seconds)


def _started(requests: list[Messages], arguments: Any) -> dict[str, Any]:
    os.environ["OMP_NUM_THREADS"] = "1"
    name = arguments.model
    model = sarsteer.load_model(name, device="cpu")
    if arguments.steering:
        steering = sarsteer.Steering.load(arguments.steering)
    else:
        steering = sarsteer.calibrate(model, sarsteer.load_pairs("sarsteer-tiny", "calibration")[:24])
    with tempfile.TemporaryDirectory() as folder:
        file = steering.save(Path(folder) / "steering.safetensors")
        policy = Path(folder) / "policy.yaml"
        tenants = {name: text for name, text in TENANTS.items() if steering.gate is not None or "gate" not in text}
        rows = [f"  - {{name: {n}, key: {key(n)}, steering: {file}, {s}}}" for n, s in tenants.items()]
        policy.write_text("\n".join(["version: 1", "tenants:", *rows]) + "\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "sarsteer", "serve", name, "--engine", "transformers"]
        server = subprocess.Popen([*command, "--policy", str(policy), "--port", str(port)])
        try:
            target = Target(f"http://127.0.0.1:{port}/v1", name, {tenant: key(tenant) for tenant in tenants})
            while True:
                if server.poll() is not None:
                    raise SystemExit("the server ended")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10).close()
                    break
                except OSError:
                    time.sleep(0.2)
            result = _against(target, requests, arguments)
            result["expected answers that differ from the model's"] = _differences(model, steering, target, requests)
            return result
        finally:
            server.terminate()
            server.wait()


def _differences(model: Any, steering: Any, target: Target, requests: list[Messages]) -> int:
    """Answers of the server without load that are not those of the model in this process."""
    count = 0
    for tenant, alpha, gate in (("weak", 0.05, False), ("strong", 0.2, False), ("gated", 0.5, True)):
        if tenant not in target.keys:
            continue
        with steering.on(model, alpha, gate=gate):
            texts = model.generate(requests, TOKENS, batch_size=1)
        count += sum(target.expected[tenant, i][0] != text for i, text in enumerate(texts))
    return count


if __name__ == "__main__":
    main()
