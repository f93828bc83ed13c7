"""Cost of calibration, peak memory and start-up, both sides interleaved in one run: ``make bench``.

``benchmarks.decoding`` measures answers. Each ratio is the median over rounds, with quartiles, because single timings
are noisy. Writes ``benchmarks/results.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as T
from rich.console import Console
from rich.table import Table

import sarsteer
from sarsteer.data.pairs import Pairs
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT

HERE = Path(__file__).parent


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleave(first: Callable[[], float], second: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Run two sides in turn, in alternating order; each returns its seconds. The ratio is first / second."""
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds):
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            times[side].append((first, second)[side]())
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "first_s": statistics.median(times[0]),
        "second_s": statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "quartiles": [low, high],
        "rounds": rounds,
    }


def large(processor: Any) -> AudioLanguageModel:
    """A random Qwen2-Audio of about 100 million parameters, with the embedded model's processor."""
    tokenizer = processor.tokenizer
    config = T.Qwen2AudioConfig(
        text_config=dict(
            model_type="qwen2",
            vocab_size=len(tokenizer),
            hidden_size=768,
            intermediate_size=2304,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=4,
        ),
        audio_config=dict(
            d_model=384, encoder_layers=6, encoder_attention_heads=6, encoder_ffn_dim=1536, num_mel_bins=80
        ),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    return AudioLanguageModel(T.Qwen2AudioForConditionalGeneration(config).eval(), processor, name="random-100M")


def four_forwards(model: AudioLanguageModel, pairs: Pairs) -> None:
    """Four single forwards per pair through the whole model, all hidden states kept, as in the released code."""
    for pair in pairs:
        for item in (pair.harmful, pair.safe):
            for text in (INSTRUCTION, INSTRUCTION + REFUSAL_PROMPT):
                messages, _ = model.read(sarsteer.user_turn(item.audio, text), 0)
                inputs = {k: v for k, v in model.process([messages]).items() if k != "num_audio_tokens"}
                with torch.no_grad():
                    out = model.module(**inputs, output_hidden_states=True)
                [state[:, -1].float().numpy() for state in out.hidden_states]


def calibration(model: AudioLanguageModel, pairs: Pairs, rounds: int) -> dict[str, Any]:
    """``calibrate`` against four single forwards per pair; the ratio is calibrate / loop."""

    def calibrate() -> None:
        model.clip_cache.clear()
        sarsteer.calibrate(model, pairs)

    return interleave(lambda: seconds(calibrate), lambda: seconds(lambda: four_forwards(model, pairs)), rounds)


def two_prefills(model: AudioLanguageModel, pairs: Pairs) -> None:
    """The floor of calibration: clips encoded once, and one prefill for each of them, in batches."""
    for start in range(0, len(pairs), DEFAULT_BATCH):
        for items in (pairs[start : start + DEFAULT_BATCH].harmful, pairs[start : start + DEFAULT_BATCH].safe):
            model.last_token_activations(model.prepare([i.turn(INSTRUCTION) for i in items], remember=False))


def floor(model: AudioLanguageModel, pairs: Pairs, rounds: int) -> dict[str, Any]:
    """``calibrate`` against ``two_prefills``, in process time; the ratio is calibrate / floor."""

    def used(work: Callable[[], Any]) -> float:
        model.clip_cache.clear()
        start = time.process_time()
        work()
        return time.process_time() - start

    return interleave(
        lambda: used(lambda: sarsteer.calibrate(model, pairs, target_fpr=None)),
        lambda: used(lambda: two_prefills(model, pairs)),
        rounds,
    )


def peak_memory(n: int) -> int:
    """Peak resident bytes of a process that calibrates the embedded model on ``n`` pairs of distinct clips."""
    code = (
        "import re, sarsteer; from sarsteer.data.pairs import Pairs;"
        "p = [*sarsteer.load_pairs('sarsteer-tiny'), *sarsteer.load_pairs('sarsteer-tiny', 'test')];"
        "m = sarsteer.load_model('sarsteer-tiny', device='cpu');"
        f"sarsteer.calibrate(m, Pairs(p[:{n}]), batch_size=8);"
        # VmHWM, because getrusage would return the parent's peak, which a child inherits
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024


def wall(*command: str) -> float:
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def start_up(rounds: int) -> dict[str, Any]:
    """``import torch`` against ``import torch, sarsteer`` and ``sarsteer --help``, whole processes."""
    torch_only, both, help_ = [], [], []
    for _ in range(rounds):
        torch_only.append(wall(sys.executable, "-c", "import torch"))
        both.append(wall(sys.executable, "-c", "import torch, sarsteer"))
        help_.append(wall(str(Path(sys.executable).with_name("sarsteer")), "--help"))
    return {
        "import_beyond_torch_s": statistics.median(b - a for a, b in zip(torch_only, both, strict=True)),
        "help_s": statistics.median(help_),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    T.logging.set_verbosity_error()
    T.logging.disable_progress_bar()
    console = Console(width=110)
    tiny = sarsteer.load_model("sarsteer-tiny", device="cpu")
    pairs = sarsteer.load_pairs("sarsteer-tiny")
    big = large(tiny.processor)
    results: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"torch": torch.__version__, "transformers": T.__version__, "numpy": np.__version__},
        "parameters_100M": sum(p.numel() for p in big.module.parameters()),
    }
    table = Table("what", "ratio", "quartiles", "target", "seconds (first / second)")

    def add(name: str, target: str, result: dict[str, Any]) -> None:
        results[name] = result
        low, high = result["quartiles"]
        seconds = f"{result['first_s']:.3f} / {result['second_s']:.3f}"
        table.add_row(name, f"{result['ratio']:.3f}", f"{low:.3f} to {high:.3f}", target, seconds)
        console.print(f"{name}: {result['ratio']:.3f}")

    for name, model, count in (("sarsteer-tiny", tiny, 32), ("random 100M", big, 8)):
        add(
            f"calibrate / four single forwards, {name}, {count} pairs",
            "<= 0.5",
            calibration(model, pairs[:count], args.rounds),
        )
        add(
            f"calibrate without a gate / two prefills per pair, {name}, {count} pairs",
            "its floor is 1",
            floor(model, pairs[:count], args.rounds),
        )
    console.print(table)
    small, great = peak_memory(50), peak_memory(300)
    per_pair = len(tiny.decoder_layers) * tiny.hidden_size * 4
    results["memory"] = {"n50": small, "n300": great, "expected_growth": 250 * per_pair}
    console.print(
        f"peak memory: {small / 2**20:.0f} MiB at 50 pairs, {great / 2**20:.0f} MiB at 300; "
        f"the safe activations of 250 pairs take {250 * per_pair / 2**20:.1f} MiB"
    )
    results["start"] = start_up(9)
    console.print(
        f"import sarsteer beyond torch: {results['start']['import_beyond_torch_s']:.3f} s (target 0.3); "
        f"sarsteer --help: {results['start']['help_s']:.3f} s (target 0.7)"
    )
    args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
