"""Speed and memory of ``sarsteer serve``: ``python -m benchmarks.server``.

Starts a server with the embedded model and measures, with HTTP clients in this process:

- throughput: answers per second of 16 clients, divided by those of one client; and the CPU time of the server's process
  per answer of one client, divided by that of 16 clients, which other work on the machine changes less;
- first token: time to the first text of a stream of one token, divided by the time of a direct ``generate`` of one
  token, and the same for CPU time. Both decode the clip's file and encode it; the two alternate;
- idle memory: resident memory of the ready server, and of a process that has only loaded and steered the model.

One thread for the model. Medians of ratios with 95 % intervals (bootstrap). Writes ``benchmarks/server.json``.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import soundfile

import sarsteer
from benchmarks.run import HERE
from benchmarks.spread import median_interval
from sarsteer.audio import load_clip
from sarsteer.prompts import INSTRUCTION

PORT = 8765
URL = f"http://127.0.0.1:{PORT}"
_MEMORY = """
import sys, sarsteer
model = sarsteer.load_model("sarsteer-tiny", device="cpu")
handle = sarsteer.Steering.load(sys.argv[1]).attach(model)
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""


def fresh_clips(count: int) -> list[bytes]:
    """WAV files that no request had before: the server keeps the embeddings of clips that it has encoded."""
    pairs = sarsteer.load_pairs("sarsteer-tiny", "test")
    known = [load_clip(clip) for pair in pairs for clip in (pair.harmful.audio, pair.safe.audio)]
    files = []
    for number in range(count):
        clip, file = known[number % len(known)], io.BytesIO()
        quieter = clip.samples * (1 - 0.01 * (number // len(known)))
        soundfile.write(file, quieter, clip.rate, format="WAV", subtype="PCM_16")
        files.append(file.getvalue())
    return files


def body(clip: bytes, **more: Any) -> bytes:
    """A request with a clip."""
    data = base64.b64encode(clip).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    content = [part, {"type": "text", "text": INSTRUCTION}]
    return json.dumps({"model": "sarsteer-tiny", "messages": [{"role": "user", "content": content}], **more}).encode()


def post(data: bytes) -> Any:
    """The open response to a request."""
    request = urllib.request.Request(
        f"{URL}/v1/chat/completions", data=data, headers={"Content-Type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=300)


def answered(data: bytes) -> str:
    """The answer to a request."""
    with post(data) as response:
        return str(json.loads(response.read())["choices"][0]["message"]["content"])


def throughput(pid: int, bodies: list[bytes], clients: int, answers: int) -> tuple[float, float]:
    """Answers per second of ``clients`` that each send one of ``bodies``, and the next when it is answered.

    Returns:
        that, and the CPU seconds of the server ``pid`` per answer.

    """
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(answered, [bodies.pop() for _ in range(clients)]))  # warm
        work = [bodies.pop() for _ in range(answers)]
        begin, spent = time.perf_counter(), cpu_seconds(pid)
        list(pool.map(answered, work))
        return answers / (time.perf_counter() - begin), (cpu_seconds(pid) - spent) / answers


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_token(data: bytes) -> float:
    """Seconds to the first event of a stream with text."""
    begin = time.perf_counter()
    with post(data) as response:
        for line in response:
            if b'"content":"' in line and b'"content":""' not in line:
                seconds = time.perf_counter() - begin
                response.read()
                return seconds
    return time.perf_counter() - begin  # a token without text


def direct(model: Any, clip: bytes) -> float:
    """Seconds of a direct call for one token, the file decoded and the clip encoded in it."""
    model.clip_cache.clear()
    begin = time.perf_counter()
    model.generate([sarsteer.user_turn(clip, INSTRUCTION)], 1)
    return time.perf_counter() - begin


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=64, help="answers per round of 16 clients")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    model = sarsteer.load_model("sarsteer-tiny", device="cpu")
    pairs = sarsteer.load_pairs("sarsteer-tiny", "calibration")[:24]
    with tempfile.TemporaryDirectory() as folder:
        file = sarsteer.calibrate(model, pairs).save(Path(folder) / "steering.safetensors")
        loaded = (
            float(subprocess.check_output([sys.executable, "-c", _MEMORY, str(file)], text=True).split()[-1]) / 1024
        )
        command = [sys.executable, "-m", "sarsteer", "serve", "sarsteer-tiny", "--engine", "transformers"]
        server = subprocess.Popen([*command, "--steering", str(file), "--port", str(PORT)])
        try:
            _wait(server)
            idle = resident(server.pid)
            result = _measure(server.pid, model, file, arguments.rounds, arguments.answers)
        finally:
            server.terminate()
            server.wait()
    result["idle memory, MiB"] = {"server": round(idle), "model loaded and steered": round(loaded)}
    result["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load average": os.getloadavg()[0],
    }
    (HERE / "server.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _measure(pid: int, model: Any, file: Path, rounds: int, answers: int) -> dict[str, Any]:
    alone = max(8, answers // 4)
    clips = fresh_clips(rounds * (alone + answers + 17 + 6))
    bodies = [body(clip, max_tokens=32) for clip in clips[6 * rounds :]]
    one, sixteen = [], []
    for _ in range(rounds):
        one.append(throughput(pid, bodies, 1, alone))
        sixteen.append(throughput(pid, bodies, 16, answers))
    median, bounds = median_interval([many / single for (single, _), (many, _) in zip(one, sixteen, strict=True)])
    less, less_bounds = median_interval([single / many for (_, single), (_, many) in zip(one, sixteen, strict=True)])
    served, called, slower = [], [], []
    served_cpu, called_cpu = 0.0, 0.0
    with sarsteer.Steering.load(file).on(model):
        for number in range(6 * rounds):
            clip = clips[number]
            streamed = body(clip, max_tokens=1, stream=True)
            spent = cpu_seconds(pid)
            served.append(first_token(streamed))
            served_cpu += cpu_seconds(pid) - spent
            spent = time.process_time()
            called.append(direct(model, clip))
            called_cpu += time.process_time() - spent
            slower.append(served[-1] / called[-1])
    first, first_bounds = median_interval(slower[2:])
    return {
        "throughput of 16 clients / of 1": {
            "ratio": median,
            "interval": bounds,
            "answers per second, 1 client": statistics.median(rate for rate, _ in one),
            "answers per second, 16 clients": statistics.median(rate for rate, _ in sixteen),
            "rounds": rounds,
            "answers per round": answers,
        },
        "server's CPU time per answer, 1 client / 16 clients": {
            "ratio": less,
            "interval": less_bounds,
            "1 client, ms": 1000 * statistics.median(spent for _, spent in one),
            "16 clients, ms": 1000 * statistics.median(spent for _, spent in sixteen),
        },
        "first token / direct generate of one token": {
            "ratio": first,
            "interval": first_bounds,
            "server, ms": 1000 * statistics.median(served[2:]),
            "direct, ms": 1000 * statistics.median(called[2:]),
            "requests": len(slower) - 2,
            "ratio of CPU time": served_cpu / called_cpu,
        },
    }


def _wait(server: Any) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{URL}/ready", timeout=10).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server ended")


if __name__ == "__main__":
    main()
