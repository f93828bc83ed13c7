"""Cost of steering, and of a gate, for an answer: ``python -m benchmarks.decoding``.

Compares steered with plain, gated with always-on steering, and requests for which the gate opens with those for which
it stays closed. Two copies of each model answer in turns, one per side; after half of the rounds they swap roles, so
that effects of their memory locations cancel. One thread, because threads wait for each other; the first answers are
not counted. The gate uses score and distance, and opens for half of the rows, but in the last comparison, which also
counts the model's forwards: a flagged request takes no extra one. Ratios are medians with 95 % intervals (bootstrap
over rounds), in process time and in wall-clock time. Writes ``benchmarks/decoding.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as T
from rich.console import Console
from rich.table import Table

import sarsteer
from benchmarks.run import HERE, large
from benchmarks.spread import median_interval
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.prompt import Prompt
from sarsteer.prompts import INSTRUCTION
from sarsteer.steering.gate.distance import fit_distance
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.handle import attach
from sarsteer.steering.strength import ResolvedStrength

ALPHA, BATCHES = 0.1, (1, 8, 64)
COMPARED = ("steered / plain", "gated / always on", "open / closed")
Attach = Callable[[AudioLanguageModel], AbstractContextManager[Any]]


def gate_of(model: AudioLanguageModel, prompts: list[Prompt]) -> Gate:
    """A gate on four layers up to the middle that opens for half of ``prompts``, with a distance of full rank."""
    layer = len(model.decoder_layers) // 2
    seen = model.last_token_activations(prompts)
    weight = torch.nn.functional.normalize(seen[:, layer].var(0), dim=0)
    distance = fit_distance(seen[:, layer], torch.arange(len(seen)) % 2)
    # full rank, as after calibration on many pairs
    basis = torch.linalg.qr(torch.randn(seen.shape[2], 64))[0].T.contiguous()
    full = type(distance)(distance.means, basis, torch.ones(64), distance.residual_precision)
    earlier = dict.fromkeys(range(layer - 3, layer), 0.001 * weight)
    gate = Gate(layer, weight, 0.0, 0.0, distance=full, limit=1e6, earlier=earlier)
    return replace(gate, threshold=float(gate.score(seen).median()))


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Process time and wall-clock time."""
    process, clock = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - process, time.perf_counter() - clock


def interval(ratios: list[float]) -> dict[str, Any]:
    """Median and its 95 % interval."""
    median, bounds = median_interval(ratios)
    return {"ratio": median, "interval": bounds}


def compare(
    models: list[AudioLanguageModel],
    prepared: list[list[Prompt]],
    sides: tuple[Attach, Attach],
    tokens: int,
    rounds: int,
) -> dict[str, Any]:
    """Time of the first side divided by that of the second; ``prepared`` has one batch of prompts per model.

    Also the forwards of one answer on each side.
    """

    def answer(which: int) -> tuple[float, float]:
        prompts = prepared[which]
        return seconds(lambda: models[which].generate(prompts, tokens, min_new_tokens=tokens, batch_size=len(prompts)))

    process: list[float] = []
    clock: list[float] = []
    forwards: list[int] = []
    for first in (0, 1):
        with sides[0](models[first]), sides[1](models[1 - first]):
            forwards = [forwards_of(models[which], lambda which=which: answer(which)) for which in (first, 1 - first)]
            for index in range(rounds // 2):
                times = {which: answer(which) for which in ((0, 1) if index % 2 else (1, 0))}
                process.append(times[first][0] / times[1 - first][0])
                clock.append(times[first][1] / times[1 - first][1])
    about = {"rounds": len(process), "load": os.getloadavg()[0], "forwards": forwards}
    return {"process": interval(process), "clock": interval(clock), **about}


def forwards_of(model: AudioLanguageModel, run: Callable[[], Any]) -> int:
    """How often the last decoder layer runs."""
    count = 0

    def hook(*_: Any) -> None:
        nonlocal count
        count += 1

    with model.decoder_layers[-1].register_forward_hook(hook):
        run()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=HERE / "decoding.json")
    parser.add_argument("--only", default="", help="measure only rows whose title has this text, and keep the others")
    args = parser.parse_args()
    T.logging.set_verbosity_error()
    T.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(width=110)
    tiny = [sarsteer.load_model("sarsteer-tiny", device="cpu") for _ in range(2)]
    items = sarsteer.load_pairs("sarsteer-tiny").harmful[: max(BATCHES)]
    turns = [sarsteer.user_turn(item.audio, INSTRUCTION) for item in items]
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.only and args.out.is_file() else {}
    results |= {"torch": torch.__version__, "transformers": T.__version__, "threads": 1}
    table = Table("what", "model", "batch", "process time", "clock")
    for name, make, decoded in (
        ("sarsteer-tiny", lambda: tiny, 32),
        ("random 100M", lambda: [large(tiny[0].processor) for _ in range(2)], 16),
    ):
        rows = [
            f"{what} {compared}, {name}, batch {batch}"
            for what in ("prefill", "decode")
            for compared in COMPARED
            for batch in BATCHES
        ]
        if not any(args.only in row for row in rows):
            continue
        models = make()
        prepared = [model.prepare(turns) for model in models]
        gate = gate_of(models[0], prepared[0])
        vectors = 1e-3 * torch.randn(len(models[0].decoder_layers), models[0].hidden_size)

        def steered(model: AudioLanguageModel, v: torch.Tensor = vectors) -> AbstractContextManager[Any]:
            return attach(model.module, model.decoder_layers, ResolvedStrength(v, ALPHA))

        def gated(model: AudioLanguageModel, v: torch.Tensor = vectors, g: Gate = gate) -> AbstractContextManager[Any]:
            return attach(model.module, model.decoder_layers, ResolvedStrength(v, ALPHA, g))

        always, never = replace(gate, threshold=-1e30), replace(gate, threshold=1e30)

        def opened(model: AudioLanguageModel, g: Gate = always) -> AbstractContextManager[Any]:
            return gated(model, g=g)

        def closed(model: AudioLanguageModel, g: Gate = never) -> AbstractContextManager[Any]:
            return gated(model, g=g)

        def plain(_: AudioLanguageModel) -> AbstractContextManager[Any]:
            return nullcontext()

        for compared, sides in zip(COMPARED, ((steered, plain), (gated, steered), (opened, closed)), strict=True):
            for what, tokens in (("prefill", 1), ("decode", decoded)):
                for batch in BATCHES:
                    if args.only not in f"{what} {compared}, {name}, batch {batch}":
                        continue
                    rounds = max(8, args.rounds // max(1, batch // 8))  # a long answer varies less
                    result = compare(models, [prompts[:batch] for prompts in prepared], sides, tokens, rounds)
                    title = f"{what} {compared}"
                    results[f"{title}, {name}, batch {batch}"] = result
                    args.out.write_text(json.dumps(results, indent=2) + "\n")
                    table.add_row(title, name, str(batch), _cell(result["process"]), _cell(result["clock"]))
                    console.print(f"{title}, {name}, batch {batch}: {_cell(result['process'])}", highlight=False)
    console.print(table)
    args.out.write_text(json.dumps(results, indent=2) + "\n")


def _cell(result: dict[str, Any]) -> str:
    low, high = result["interval"]
    return f"{result['ratio']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
