"""Throughput of vLLM plain, attached but idle (alpha 0), steered, and gated: ``make bench-vllm``.

Three engines in one process with the same random weights: plain vLLM, hooks on every decoder layer, and hooks with a
gate that reads four layers up to the middle one. Each round runs all sides on the same prompts, in another order;
ratios are computed within a round. Prefill is an answer of one token, and decoding one of ``--tokens``. Machines are
noisy: a ratio is the median over rounds, with its 95 % interval (bootstrap over the rounds). Results are written to
``benchmarks/vllm_throughput.json``.
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

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="2",
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    OMP_NUM_THREADS="1",  # waiting threads would count as CPU time
)
import torch
from spread import median_interval

HERE = Path(__file__).parent
SIDES = ("plain", "idle", "steered", "gated")
PROMPT = 32


def random_model(folder: Path, layers: int, width: int) -> Path:
    """Write a Qwen2 configuration. vLLM fills the model with random weights, the same for the same seed."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": width,
        "intermediate_size": width * 38 // 7,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": 2,
        "vocab_size": 32_000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def random_steering(path: Path, layers: int, width: int, *, gated: bool = False) -> Path:
    """Write random vectors of about a tenth of a residual stream's norm; if ``gated``, with a gate of full rank."""
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.file_format import FORMAT_VERSION
    from sarsteer.steering.gate.distance import MahalanobisDistance
    from sarsteer.steering.gate.gate import Gate

    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(layers, width, 4, generator=generator)).Q.mT.contiguous()
    zeros = torch.zeros(layers, width)
    fingerprint = {
        "architecture": "none", "layers": layers, "hidden_size": width, "vocabulary": 0, "dtype": "float32",
        "digest": "", "sample": [0.0] * layers,
    }  # fmt: skip
    metadata = {
        "format_version": FORMAT_VERSION, "model": {"name": "random"}, "fingerprint": fingerprint, "layers": layers,
        "hidden_size": width, "instruction": "", "refusal_prompt": "", "pairs": 0,
        "defaults": {"alpha": 0.1, "k": 4, "lambda": 1.0},
    }  # fmt: skip
    refusal = 0.05 * torch.randn(layers, width, generator=generator)
    norms = torch.ones(layers)
    steering = Steering(refusal, basis, torch.ones(layers, 4), zeros, zeros.clone(), norms, metadata)
    if gated:
        directions = torch.linalg.qr(torch.randn(width, 64, generator=generator)).Q.T.contiguous()
        distance = MahalanobisDistance(torch.randn(2, width, generator=generator), directions, torch.ones(64), 1.0)
        weights = [torch.randn(width, generator=generator) for _ in range(4)]
        earlier = dict(enumerate(weights[1:], layers // 2 - 3))
        gate = Gate(layers // 2, weights[0], 0.0, 0.0, distance=distance, limit=1e6, earlier=earlier)
        steering = steering.with_gate(gate).with_defaults(gate=True)
    return steering.save(path)


def make_engine(model: Path, steering: Path | None, options: dict[str, Any]) -> Any:
    from vllm import LLM

    if steering is not None:
        os.environ.update(
            SARSTEER_STEERING=str(steering), SARSTEER_ALLOW_OVERRIDE="0:1", SARSTEER_ALLOW_OTHER_MODEL="1"
        )
    else:
        os.environ.pop("SARSTEER_STEERING", None)
    return LLM(
        model=str(model), load_format="dummy", skip_tokenizer_init=True, dtype="float32", max_model_len=256,
        max_num_seqs=64, enable_prefix_caching=False, **options,
    )  # fmt: skip


def seconds(llm: Any, side: str, batch: int, tokens: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds. On a busy machine only CPU seconds can be compared."""
    from vllm import SamplingParams, TokensPrompt

    extra = {"plain": None, "idle": {"sarsteer_alpha": 0.0}, "steered": None, "gated": None}[side]
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, extra_args=extra)
    prompts = [TokensPrompt(prompt_token_ids=list(range(10 + i, 10 + i + PROMPT))) for i in range(batch)]
    start, busy = time.perf_counter(), time.process_time()
    llm.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - start, time.process_time() - busy


def measure(engines: dict[str, Any], batch: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Run all sides in every round, each round starting with another side."""
    for side in SIDES:
        seconds(engines[side], side, batch, 2)
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for index in range(rounds):
        for step in range(len(SIDES)):
            side = SIDES[(index + step) % len(SIDES)]
            times[side].append(seconds(engines[side], side, batch, tokens))
    results: dict[str, Any] = {
        "batch": batch,
        "tokens": tokens,
        "rounds": rounds,
        "tokens_per_second": {s: batch * tokens / statistics.median(wall for wall, _ in times[s]) for s in SIDES},
        "tokens_per_cpu_second": {s: batch * tokens / statistics.median(cpu for _, cpu in times[s]) for s in SIDES},
    }
    for kind, index in (("wall", 0), ("cpu", 1)):
        for side, other in (("idle", "plain"), ("steered", "plain"), ("gated", "plain"), ("gated", "steered")):
            ratios = [a[index] / b[index] for a, b in zip(times[other], times[side], strict=True)]
            median, interval = median_interval(ratios)
            results[f"{side}_over_{other}_{kind}"] = {
                "median": median,
                "interval": interval,
                "range": [min(ratios), max(ratios)],
            }
    return results


def table(results: dict[str, Any]) -> str:
    """Markdown: tokens per CPU second of each side, and ratios between sides."""
    pairs = ("idle_over_plain", "steered_over_plain", "gated_over_plain", "gated_over_steered")
    heads = [*SIDES, *(name.replace("_over_", " / ") for name in pairs)]
    rows = [f"| batch | tokens | {' | '.join(heads)} |", "|" + "---|" * (2 + len(heads))]
    for row in results["batches"]:
        cells = [f"{row['tokens_per_cpu_second'][side]:.1f}" for side in SIDES]
        for name in pairs:
            low, high = row[f"{name}_cpu"]["interval"]
            cells.append(f"{row[f'{name}_cpu']['median']:.3f} [{low:.3f}, {high:.3f}]")
        rows.append(f"| {row['batch']} | {row['tokens']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--out", type=Path, default=HERE / "vllm_throughput.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(folder, args.layers, args.width)
        steering = random_steering(folder / "steering.safetensors", args.layers, args.width)
        options = {"enforce_eager": args.eager}
        attached = make_engine(model, steering, options)
        gate = make_engine(
            model, random_steering(folder / "gated.safetensors", args.layers, args.width, gated=True), options
        )
        engines = {"plain": make_engine(model, None, options), "idle": attached, "steered": attached, "gated": gate}
        from vllm.version import __version__

        results: dict[str, Any] = {
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {"vllm": __version__, "torch": torch.__version__},
            "model": {"layers": args.layers, "width": args.width, "dtype": "float32", "eager": args.eager},
            "prompt_tokens": PROMPT,
            "batches": [],
        }
        for batch in args.batches:
            for tokens in (1, args.tokens):
                load = os.getloadavg()[0]
                results["batches"].append({**measure(engines, batch, tokens, args.rounds), "load": load})
                args.out.write_text(json.dumps(results, indent=2) + "\n")
                print(table(results), flush=True)


if __name__ == "__main__":
    main()
