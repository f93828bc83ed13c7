"""Where the time of an answer goes in ``sarsteer serve``, without HTTP: ``python -m benchmarks.server_steps``.

CPU time of this process, so that other work on the machine matters less: clips and prompts (encoding and prefill), each
decode step, and a whole answer of up to 32 tokens; for one request and for 16 at once; with the server's decoding loop
and with transformers' ``generate``. Then the same answers for clients that each send a request when the last one is
answered, so that requests join. The embedded model on one thread, medians of five, and of three with clients. Prints
one JSON document.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import sarsteer
from sarsteer.prompts import INSTRUCTION

TOKENS = 14
"""Fewer than the shortest answer of these clips: all rows decode until then."""


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from sarsteer.server.engine import Engine
    from sarsteer.server.job import Job
    from sarsteer.server.policy import make_tenant
    from sarsteer.steering.strength import Strength

    torch.set_num_threads(1)
    model = sarsteer.load_model("sarsteer-tiny", device="cpu")
    steering = sarsteer.calibrate(model, sarsteer.load_pairs("sarsteer-tiny", "calibration")[:24])
    tenant = make_tenant("only", steering, "file", Strength(0.1, gate=False))
    clips = [Path(pair.harmful.audio) for pair in sarsteer.load_pairs("sarsteer-tiny", "test")[:16]]
    conversations = [sarsteer.user_turn(clip.read_bytes(), INSTRUCTION) for clip in clips]
    result: dict[str, Any] = {}
    for joins in (True, False):
        engine = Engine(model, 16, lambda: None)
        engine.prove([tenant])
        engine.joins = engine.joins and joins

        def spent(rows: int, tokens: int, engine: Engine = engine) -> float:
            model.clip_cache.clear()
            jobs = [Job(tenant, one, tokens, lambda event: None) for one in conversations[:rows]]
            begin = time.process_time()
            engine.answer(jobs)
            return 1000 * (time.process_time() - begin)

        for rows in (1, 16):
            spent(rows, 2)
            first, some, whole = (statistics.median(spent(rows, n) for _ in range(5)) for n in (1, TOKENS, 32))
            result[f"{'decoding loop' if engine.joins else 'generate'}, {rows} at once"] = {
                "clips and prefill per answer, ms": round(first / rows, 1),
                "decode step, ms": round((some - first) / (TOKENS - 1), 1),
                "whole answer, ms": round(whole / rows, 1),
            }
        if engine.joins:
            model.clip_cache.limit = 0  # every clip is encoded
            alone, many = [], []
            for _ in range(3):
                alone.append(_with_clients(engine, tenant, conversations, clients=1, answers=8))
                many.append(_with_clients(engine, tenant, conversations, clients=16, answers=48))
            result["whole answer of 1 client, ms"] = round(statistics.median(alone), 1)
            result["whole answer of 16 clients, ms"] = round(statistics.median(many), 1)
            result["1 client / 16 clients"] = [round(a / b, 2) for a, b in zip(alone, many, strict=True)]
        engine.detach()
    result["load average"] = os.getloadavg()[0]
    print(json.dumps(result, indent=2))


def _with_clients(engine: Any, tenant: Any, conversations: list[Any], *, clients: int, answers: int) -> float:
    """CPU milliseconds per answer."""
    from sarsteer.server.job import Finished, Job

    waiting: list[Any] = []
    made = 0

    def ask() -> Any:
        nonlocal made
        conversation = conversations[made % len(conversations)]
        made += 1
        return Job(tenant, conversation, 32, answered)

    def answered(event: Any) -> None:
        if isinstance(event, Finished) and made < answers:
            waiting.append(ask())

    def more(free: int) -> list[Any]:
        jobs = waiting[:free]
        del waiting[:free]
        return jobs

    begin = time.process_time()
    engine.answer([ask() for _ in range(clients)], more)
    while waiting:
        engine.answer(more(clients), more)
    return 1000 * (time.process_time() - begin) / answers


if __name__ == "__main__":
    main()
