"""What encoding clips once and sharing prefixes saves outside Qwen2-Audio: ``python -m benchmarks.families``.

A random Voxtral of about 100M parameters, which encodes every clip in a window of 30 s. Two jobs, each with the
mechanisms and without them (every forward encodes its clips and runs the whole prompt), in turn:

- calibrate: ``sarsteer.calibrate`` on pairs of clips;
- answer: each request under several strengths, from prompts that are prepared once, as ``evaluate`` does.

Counted are the clips that run through the encoder and the positions that run through the decoder; both are exact. The
times are of the processor, because other jobs on the machine do not change those much. Results must be equal: answers
exactly, vectors to the rounding of float32. They go to ``benchmarks/families.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers as T
from rich.console import Console

import sarsteer
from sarsteer.prompts import INSTRUCTION
from tests.support.families import make_voxtral

HERE = Path(__file__).parent
SIDES = ("before", "now")
STRENGTHS = (0.0, 0.05, 0.1)


@dataclass
class Count:
    """What ran: clips in the encoder, positions in the decoder."""

    clips: int = 0
    positions: int = 0


def large_voxtral() -> sarsteer.AudioLanguageModel:
    """About 100M random parameters: a decoder of twelve layers, an encoder of six."""
    torch.manual_seed(0)
    module, processor = make_voxtral(
        text=dict(
            hidden_size=768,
            intermediate_size=2304,
            num_hidden_layers=12,
            num_attention_heads=12,
            head_dim=64,
            initializer_range=0.02,
        ),
        audio=dict(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=6,
            initializer_range=0.02,
        ),
    )
    module.eval().generation_config.eos_token_id = None
    return sarsteer.AudioLanguageModel(module, processor, name="random Voxtral, 100M")


@contextmanager
def counting(model: sarsteer.AudioLanguageModel) -> Iterator[Count]:
    count = Count()
    inner: Any = model.module

    def encoded(_module: Any, args: Any, kwargs: Any) -> None:
        count.clips += len(args[0] if args else kwargs["input_features"])

    def decoded(_module: Any, args: Any) -> None:
        count.positions += args[0].shape[0] * args[0].shape[1]

    hooks = [
        inner.model.audio_tower.register_forward_pre_hook(encoded, with_kwargs=True),
        model.decoder_layers[0].register_forward_pre_hook(decoded),
    ]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def as_before(model: sarsteer.AudioLanguageModel) -> Iterator[None]:
    family = model.family
    model.family = replace(family, encode_once=False, prefix_reuse=False)
    try:
        yield
    finally:
        model.family = family


def compare(
    model: sarsteer.AudioLanguageModel, job: Callable[[], Any], rounds: int, equal: Callable[[Any, Any], bool]
) -> dict[str, Any]:
    """Counts of each side, and the ratio of their processor times over the rounds."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    counts: dict[str, Count] = {}
    results: dict[str, Any] = {}
    for number in range(rounds):
        for side in SIDES if number % 2 else SIDES[::-1]:
            model.clip_cache.clear()
            with counting(model) as counts[side]:
                started = time.process_time()
                if side == "before":
                    with as_before(model):
                        results[side] = job()
                else:
                    results[side] = job()
                seconds[side].append(time.process_time() - started)
        if not equal(results["before"], results["now"]):
            raise SystemExit("the two sides differ")
    ratios = [before / now for before, now in zip(seconds["before"], seconds["now"], strict=True)]
    return {
        "counts": {side: vars(counts[side]) for side in SIDES},
        "cpu_seconds": {side: statistics.median(seconds[side]) for side in SIDES},
        "cpu_ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4, help="of each answer")
    parser.add_argument("--out", type=Path, default=HERE / "families.json")
    args = parser.parse_args()
    T.logging.set_verbosity_error()
    torch.set_num_threads(1)
    model, pairs = large_voxtral(), sarsteer.load_pairs("sarsteer-tiny", "calibration")[: args.pairs]

    def calibrate() -> Any:
        return sarsteer.calibrate(model, pairs, batch_size=4).refusal

    steering = sarsteer.calibrate(model, pairs, batch_size=4)
    turns = [pair.harmful.turn(INSTRUCTION) for pair in pairs]

    def answer() -> Any:
        prompts = model.prepare(turns)
        found = [model.generate(prompts, args.tokens, batch_size=4)]
        for alpha in STRENGTHS[1:]:
            with steering.on(model, alpha=alpha, k=1):
                found.append(model.generate(prompts, args.tokens, batch_size=4))
        return found

    def close(a: torch.Tensor, b: torch.Tensor) -> bool:
        return bool((a - b).abs().max() < 1e-3 * b.abs().max())  # differences of close float32 activations

    results: dict[str, Any] = {
        "model": {"name": model.name, "parameters": sum(p.numel() for p in model.module.parameters())},
        "pairs": args.pairs,
        "rounds": args.rounds,
        "strengths": STRENGTHS,
        "tokens": args.tokens,
        "cores": os.cpu_count(),
        "threads": 1,
        "versions": {"torch": torch.__version__, "transformers": T.__version__},
        "cpu_ratio_is": "processor time before / now, of each round",
        "calibrate": compare(model, calibrate, args.rounds, close),
        "answer": compare(model, answer, args.rounds, lambda a, b: bool(a == b)),
    }
    args.out.write_text(json.dumps(results, indent=2) + "\n")
    console = Console(width=110)
    for job in ("calibrate", "answer"):
        found = results[job]
        ratio = found["cpu_ratio"]
        counts = found["counts"]
        console.print(
            f"{job}: clips encoded {counts['before']['clips']} → {counts['now']['clips']}, positions decoded "
            f"{counts['before']['positions']} → {counts['now']['positions']}, processor time "
            f"{ratio['median']:.2f} times less ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
        )


if __name__ == "__main__":
    main()
