"""Responses a second of ``sarsteer evaluate`` against single calls of ``generate``: ``make bench-evaluate``.

One block of each side in turn, the order swapped each round, the model's memory of clips emptied before each: all of
``evaluate`` (checks, answers, verdicts, logs, results) on one side, and on the other the bare loop, with the same
clips, instruction and decoding. Beside the clock's ratio stands that of processor time, which says less of a machine
that does other things meanwhile: it leaves out what ``evaluate`` gains by doing two things at once. Results go to
``benchmarks/evaluate.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers as T
from rich.console import Console
from run import HERE, interleave, large

import sarsteer
from sarsteer.evaluation.benchmarks import open_benchmark
from sarsteer.evaluation.evaluating import Settings, run
from sarsteer.evaluation.inspect import sharing
from sarsteer.models.base import AudioLanguageModel


def speedup(
    model: AudioLanguageModel, requests: int, singles: int, tokens: int, batch: int, rounds: int
) -> dict[str, Any]:
    """Seconds a request of single calls (first) and of ``evaluate`` (second), and the median of their ratios."""
    benchmark = open_benchmark("embedded", limit=requests)
    turns = [item.turn(benchmark.text(item)) for item in benchmark.items]
    sharing.forget()
    sharing._made[model.name, "{}"] = sharing.SharedModel(model, batch)
    answers: dict[str, list[str]] = {}
    start = [0]
    spent: dict[str, list[float]] = {"loop": [], "evaluate": []}

    def loop() -> float:
        # a different stretch each round, so that in the end the loop has met the requests that evaluate has
        chosen = [(start[0] + i) % requests for i in range(singles)]
        start[0] += singles
        model._clips.clear()
        began, busy = time.perf_counter(), time.process_time()
        found = [model.generate([turns[i]], tokens)[0] for i in chosen]
        took = time.perf_counter() - began
        spent["loop"].append((time.process_time() - busy) / singles)
        if "evaluate" in answers:
            assert found == [answers["evaluate"][i] for i in chosen], "the two sides must answer alike"
        return took / singles

    def evaluate() -> float:
        model._clips.clear()
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(
                model.name, ("embedded",), ("none",), Path(folder), limit=requests, max_new_tokens=tokens,
                batch_size=batch,
            )  # fmt: skip
            began, busy = time.perf_counter(), time.process_time()
            results = run(settings)
            took = time.perf_counter() - began
            spent["evaluate"].append((time.process_time() - busy) / requests)
        answers["evaluate"] = [answer.answer for answer in results.arms[0].answers]
        return took / requests

    found = interleave(loop, evaluate, rounds)
    loops, whole = (statistics.median(spent[side][1:]) for side in ("loop", "evaluate"))  # the first warms up
    found |= {"first_cpu_s": loops, "second_cpu_s": whole, "cpu_ratio": loops / whole}
    return {"requests": requests, "batch_size": batch, "max_new_tokens": tokens, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of torch; on both sides")
    parser.add_argument("--out", type=Path, default=HERE / "evaluate.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    T.logging.set_verbosity_error()
    T.logging.disable_progress_bar()
    console = Console(width=110)
    tiny = sarsteer.load_model("sarsteer-tiny", device="cpu")
    big = large(tiny.processor)
    results: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg()[0],
        "versions": {"torch": torch.__version__, "transformers": T.__version__},
        "ratio_is": "seconds a request of single calls / seconds a request of sarsteer evaluate; quartiles of rounds",
    }
    for name, model, requests, singles, tokens, batch in (
        ("sarsteer-tiny", tiny, 96, 12, 256, 16),
        ("random 100M", big, 32, 3, 64, 16),
    ):
        found = speedup(model, requests, singles, tokens, batch, args.rounds)
        results[name] = found
        low, high = found["quartiles"]
        console.print(
            f"{name}: {1 / found['second_s']:.1f} responses a second against {1 / found['first_s']:.1f}, "
            f"{found['ratio']:.1f} times ({low:.1f} to {high:.1f}); in processor time {found['cpu_ratio']:.1f} times"
        )
    results["load_average_after"] = os.getloadavg()[0]
    args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
