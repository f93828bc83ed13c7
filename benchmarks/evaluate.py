"""Responses per second of ``sarsteer evaluate`` against single calls of ``generate``: ``make bench-evaluate``.

One block of each side in turn; the order rotates each round, and the model's clip cache is emptied before each block.
The sides: all of ``evaluate`` (checks, answers, verdicts, logs, results); a loop over our ``generate``, one request per
call; and a loop with only transformers, its processor and its ``generate``. All have the same clips, instruction and
decoding, and must answer alike. Besides the ratio of wall-clock times, the ratio of processor times is given: it does
not depend on other jobs on the machine, and leaves out what ``evaluate`` gains by doing two things at once. Results go
to ``benchmarks/evaluate.json``.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers as T
from rich.console import Console
from run import HERE, large

import sarsteer
from sarsteer.audio import load_clip
from sarsteer.data.benchmarks import load_benchmark
from sarsteer.data.manifest import Item
from sarsteer.evaluation.plan import parse_plan
from sarsteer.evaluation.run import run
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.runtime.pool import Pool

SIDES = ("stock", "loop", "evaluate")


def speedup(
    model: AudioLanguageModel, requests: int, singles: int, tokens: int, batch: int, rounds: int
) -> dict[str, Any]:
    """Seconds per request of each side, and the median over rounds of how many times ``evaluate`` is faster."""
    benchmark = load_benchmark("embedded", limit=requests)
    turns = [item.turn(benchmark.text(item)) for item in benchmark.items]
    pool = Pool()
    pool.add_model(model)
    expected: list[str] = []

    def evaluate(_chosen: list[int]) -> int:
        with tempfile.TemporaryDirectory() as folder:
            plan = parse_plan(
                model.name, ["embedded"], ["none"], Path(folder), limit=requests, max_new_tokens=tokens,
                batch_size=batch,
            )  # fmt: skip
            expected[:] = [answer.answer for answer in run(plan, pool=pool).arms[0].answers]
        return requests

    def loop(chosen: list[int]) -> int:
        found = [model.generate([turns[i]], tokens)[0] for i in chosen]
        assert found == [expected[i] for i in chosen], "the sides must answer alike"
        return len(chosen)

    def stock(chosen: list[int]) -> int:
        found = [by_transformers(model, benchmark.items[i], benchmark.text(benchmark.items[i]), tokens) for i in chosen]
        assert found == [expected[i] for i in chosen], "the sides must answer alike"
        return len(chosen)

    run_side = {"stock": stock, "loop": loop, "evaluate": evaluate}
    clock: dict[str, list[float]] = {side: [] for side in SIDES}
    busy: dict[str, list[float]] = {side: [] for side in SIDES}
    evaluate([])  # warms up, and gives the expected answers
    for number in range(rounds):
        # different requests each round, so that over all rounds the loops answer what evaluate answers
        chosen = [(number * singles + i) % requests for i in range(singles)]
        for place in range(len(SIDES)):
            side = SIDES[(number + place) % len(SIDES)]
            model.clip_cache.clear()
            began, used = time.perf_counter(), time.process_time()
            answered = run_side[side](chosen)
            clock[side].append((time.perf_counter() - began) / answered)
            busy[side].append((time.process_time() - used) / answered)
    found: dict[str, Any] = {"requests": requests, "batch_size": batch, "max_new_tokens": tokens, "rounds": rounds}
    found["seconds"] = {side: statistics.median(clock[side]) for side in SIDES}
    found["cpu_seconds"] = {side: statistics.median(busy[side]) for side in SIDES}
    for side in SIDES[:2]:
        ratios = [a / b for a, b in zip(clock[side], clock["evaluate"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        cpu = found["cpu_seconds"][side] / found["cpu_seconds"]["evaluate"]
        found[f"over_{side}"] = {"ratio": middle, "quartiles": [low, high], "cpu_ratio": cpu}
    return found


def profile(model: AudioLanguageModel, requests: int, tokens: int, batch: int) -> None:
    """Print the processor time of ``evaluate`` per request: in the model, in Inspect's thread, and elsewhere."""
    pool = Pool()
    pool.add_model(model)
    used, depth = 0.0, 0
    generate = model.generate

    def timed(*args: Any, **options: Any) -> Any:
        nonlocal used, depth
        began, depth = time.thread_time(), depth + 1  # a call may answer through another one
        try:
            return generate(*args, **options)
        finally:
            depth -= 1
            used += 0.0 if depth else time.thread_time() - began

    def evaluate() -> None:
        model.clip_cache.clear()
        with tempfile.TemporaryDirectory() as folder:
            plan = parse_plan(
                model.name, ["embedded"], ["none"], Path(folder), limit=requests, max_new_tokens=tokens,
                batch_size=batch,
            )  # fmt: skip
            run(plan, pool=pool)

    model.generate = timed  # type: ignore[method-assign]
    try:
        evaluate()
        used = 0.0
        began, main = time.process_time(), time.thread_time()
        evaluate()
        total, main = time.process_time() - began, time.thread_time() - main
        profiler = cProfile.Profile(time.process_time)
        profiler.runcall(evaluate)
    finally:
        model.generate = generate  # type: ignore[method-assign]
    for title, seconds in (("model", used), ("Inspect's thread", main), ("other threads", total - used - main)):
        print(f"{title}: {1e3 * seconds / requests:.1f} ms of processor time per request")
    pstats.Stats(profiler).sort_stats("tottime").print_stats("inspect_ai|pydantic|copy.py", 15)


@torch.no_grad()
def by_transformers(model: AudioLanguageModel, item: Item, text: str, tokens: int) -> str:
    """One answer as transformers' documentation shows it; only the file is read with sarsteer."""
    clip = load_clip(item.audio).resampled(model.processor.feature_extractor.sampling_rate)
    parts = [{"type": "audio", "audio": clip.samples}, {"type": "text", "text": text}]
    inputs = model.processor.apply_chat_template(
        [[{"role": "user", "content": parts}]], tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=True,
    )  # fmt: skip
    out = model.module.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    answer: str = model.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="torch threads on all sides; torch decides by default")
    parser.add_argument("--out", type=Path, default=HERE / "evaluate.json")
    parser.add_argument("--profile", action="store_true", help="only show where the time of a request goes, on the toy")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    T.logging.set_verbosity_error()
    T.logging.disable_progress_bar()
    console = Console(width=110)
    tiny = sarsteer.load_model("sarsteer-tiny", device="cpu")
    if args.profile:
        profile(tiny, requests=48, tokens=256, batch=16)
        return
    big = large(tiny.processor)
    results: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg()[0],
        "versions": {"torch": torch.__version__, "transformers": T.__version__},
        "ratio_is": "seconds per request of that side / those of sarsteer evaluate; median and quartiles of rounds",
    }
    for name, model, requests, singles, tokens, batch in (
        ("sarsteer-tiny", tiny, 96, 12, 256, 16),
        ("random 100M", big, 32, 3, 64, 16),
    ):
        found = speedup(model, requests, singles, tokens, batch, args.rounds)
        results[name] = found
        console.print(f"{name}: {1 / found['seconds']['evaluate']:.1f} responses a second")
        for side, title in (("loop", "single calls of sarsteer"), ("stock", "transformers")):
            over = found[f"over_{side}"]
            low, high = over["quartiles"]
            console.print(
                f"  {over['ratio']:.1f} times {title} ({low:.1f} to {high:.1f}), "
                f"in processor time {over['cpu_ratio']:.1f}"
            )
    results["load_average_after"] = os.getloadavg()[0]
    args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
