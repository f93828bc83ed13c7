"""Faults while a server answers: ``python -m benchmarks.server_faults``.

Each fault happens to a real server process with the embedded model, while clients send requests. Every answer that
comes is compared with that of the model in this process.

- ``kill``: kill -9 during answers, and a restart on the same port: clients get errors, never a wrong answer.
- ``disk``: no file may grow beyond 2 KiB, so that the audit log is full at once: answers continue, errors are counted.
- ``memory``: the process may allocate only 64 MiB more, and one client sends a request that needs more: it gets HTTP
  503, or its answer in smaller batches; the others get theirs; without the limit it is answered.

Prints one JSON document; exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sarsteer
from benchmarks.server_load import TOKENS, Messages, Target, key, spoken

ALPHA = 0.2
FILE_BYTES = 2048
MORE_BYTES = 64 * 2**20
MONITOR = "monitor-key-0123456789"


class Server:
    """``sarsteer serve`` with one tenant."""

    def __init__(self, folder: Path, port: int, limit: Callable[[], None] | None = None) -> None:
        self.url, self._folder = f"http://127.0.0.1:{port}", folder
        command = [sys.executable, "-m", "sarsteer", "serve", "sarsteer-tiny", "--engine", "transformers"]
        command += ["--policy", str(folder / "policy.yaml"), "--port", str(port)]
        command += ["--audit-log", str(folder / "audit.jsonl")]
        self.process = subprocess.Popen(command, preexec_fn=limit)
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/ready", timeout=10).close()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit("the server ended")

    def metric(self, name: str) -> float:
        """The sum of a metric."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {MONITOR}"})
        lines = urllib.request.urlopen(request, timeout=60).read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def end(self) -> None:
        """Stop the process."""
        self.process.terminate()
        self.process.wait()


class Clients:
    """Clients that ask until they are stopped."""

    def __init__(self, target: Target, requests: list[Messages], count: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._target, self._requests, self._stop = target, requests, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            index = number % len(self._requests)
            number += 1
            try:
                text, decision, _ = self._target.ask("only", self._requests[index], stream=number % 2 == 0)
                right = (text, decision) == (self._target.expected["only", index][0], "steered")
                self.outcomes["right" if right else "wrong"] += 1
            except urllib.error.HTTPError as error:
                self.outcomes[f"HTTP {error.code}"] += 1
            except (OSError, RuntimeError, ValueError) as error:  # a connection that broke
                self.outcomes["no connection" if isinstance(error, OSError) else "cut off"] += 1
                time.sleep(0.1)

    def wait_for(self, answers: int) -> None:
        """Wait until so many more right answers came."""
        end = self.outcomes["right"] + answers
        while self.outcomes["right"] < end and not self.outcomes["wrong"]:
            time.sleep(0.1)

    def stop(self) -> dict[str, int]:
        """End; returns the outcomes."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return dict(self.outcomes)


def killed(folder: Path, port: int, target: Target, requests: list[Messages], answers: int) -> dict[str, Any]:
    """Kill -9 while clients are answered, and restart."""
    server = Server(folder, port)
    clients = Clients(target, requests, 8)
    try:
        clients.wait_for(answers)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        begin = time.monotonic()
        server = Server(folder, port)
        seconds = time.monotonic() - begin
        clients.wait_for(answers)
    finally:
        outcomes = clients.stop()
        server.end()
    return {"outcomes": outcomes, "seconds until ready again": round(seconds, 1)}


def full_disk(folder: Path, port: int, target: Target, requests: list[Messages], answers: int) -> dict[str, Any]:
    """A file system that takes no more of the audit log."""
    (folder / "audit.jsonl").unlink(missing_ok=True)
    server = Server(folder, port, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES)))
    clients = Clients(target, requests, 8)
    try:
        clients.wait_for(answers)
        outcomes = clients.stop()
        errors = server.metric("sarsteer_audit_errors_total")
    finally:
        clients.stop()
        server.end()
    size = (folder / "audit.jsonl").stat().st_size
    return {"outcomes": outcomes, "records lost and counted": errors, "bytes of the log": size}


def little_memory(folder: Path, port: int, target: Target, requests: list[Messages], answers: int) -> dict[str, Any]:
    """One request that needs more memory than the process may have."""
    server = Server(folder, port)
    clients = Clients(target, requests, 4)
    large = {
        "model": target.model,
        "messages": [{"role": "user", "content": "word " * 1300}],
        "n": 8,
        "max_tokens": TOKENS,
    }

    def ask() -> str:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key('only')}"}
        request = urllib.request.Request(f"{target.url}/chat/completions", json.dumps(large).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return f"{len(json.loads(response.read())['choices'])} answers"
        except urllib.error.HTTPError as error:
            return f"HTTP {error.code}: {json.loads(error.read())['error']['message']}"

    try:
        clients.wait_for(answers)
        pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MORE_BYTES
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        limited = ask()
        clients.wait_for(answers)
        alive = server.process.poll() is None
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        unlimited = ask()
        clients.wait_for(answers)
    finally:
        outcomes = clients.stop()
        server.end()
    return {
        "outcomes": outcomes,
        "large request, limited": limited,
        "large request, unlimited": unlimited,
        "alive": alive,
    }


FAULTS = {"kill": killed, "disk": full_disk, "memory": little_memory}
ALLOWED = {
    "kill": {"right", "no connection", "cut off", "HTTP 503"},
    "disk": {"right"},
    "memory": {"right", "HTTP 503"},
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--answers", type=int, default=30, help="right answers before and after each fault")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    model = sarsteer.load_model("sarsteer-tiny", device="cpu")
    steering = sarsteer.calibrate(model, sarsteer.load_pairs("sarsteer-tiny", "calibration")[:24])
    pairs = sarsteer.load_pairs("sarsteer-tiny", "test")[:4]
    requests = [spoken(Path(clip)) for pair in pairs for clip in (pair.harmful.audio, pair.safe.audio)]
    with steering.on(model, ALPHA, gate=False):
        texts = model.generate(requests, TOKENS, batch_size=1)
    del model
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = Target(f"http://127.0.0.1:{port}/v1", "sarsteer-tiny", {"only": key("only")})
    target.expected = {("only", index): (text, "steered") for index, text in enumerate(texts)}
    result, bad = {}, False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = steering.save(folder / "steering.safetensors")
        lines = ["version: 1", f"monitor: {{key: {MONITOR}}}", "tenants:"]
        lines.append(f"  - {{name: only, key: {key('only')}, steering: {file}, alpha: {ALPHA}}}")
        (folder / "policy.yaml").write_text("\n".join(lines) + "\n")
        for fault in arguments.faults:
            result[fault] = FAULTS[fault](folder, port, target, requests, arguments.answers)
            bad |= bool(set(result[fault]["outcomes"]) - ALLOWED[fault])
            bad |= result[fault].get("large request, unlimited", "8 answers") != "8 answers"
    print(json.dumps(result, indent=2))
    sys.exit(bad)


if __name__ == "__main__":
    main()
