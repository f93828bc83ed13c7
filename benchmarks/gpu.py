"""Cost of steering on a GPU, for a random model of Qwen2-Audio-7B's shape in bfloat16: ``python -m benchmarks.gpu``.

Decoding eager and with CUDA graphs (transformers' static cache, ``torch.compile`` in mode ``reduce-overhead``), steered
beside plain; a prefill; calibration in seconds per pair, and as a ratio to its floor of two prefills per pair; peak
memory. Two copies of the model answer in turns and swap roles after half of the rounds; one copy is measured alone if
two do not fit, without CUDA graphs. Times are wall-clock times around a synchronization, ratios medians with 95 %
intervals (bootstrap over rounds). Writes ``benchmarks/gpu.json`` with the card's name.

``--tiny`` runs the same code on the CPU with a tiny model, to test it. Its figures mean nothing and are not saved.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers as T

import sarsteer
from benchmarks.spread import median_interval
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.prompt import Prompt
from sarsteer.prompts import INSTRUCTION
from sarsteer.steering.handle import attach
from sarsteer.steering.strength import ResolvedStrength

HERE = Path(__file__).parent
ALPHA = 0.1
SEVEN_B: dict[str, Any] = {
    "text": dict(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32
    ),
    "audio": dict(d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120),
    "vocabulary": 156_032,
}
TINY: dict[str, Any] = {
    "text": dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4
    ),
    "audio": dict(d_model=64, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=128),
    "vocabulary": None,
}


def random_model(shape: dict[str, Any], processor: Any, device: torch.device, dtype: torch.dtype) -> AudioLanguageModel:
    """A random Qwen2-Audio, created on its device; 80 mel bins, as the processor of sarsteer-tiny computes."""
    tokenizer = processor.tokenizer
    config = T.Qwen2AudioConfig(
        text_config=dict(model_type="qwen2", vocab_size=shape["vocabulary"] or len(tokenizer), **shape["text"]),
        audio_config=dict(num_mel_bins=80, **shape["audio"]),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    try:
        with device:
            module = T.Qwen2AudioForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(default)
    return AudioLanguageModel(module, processor, name="random-qwen2-audio")


class Bench:
    """The measurements, on one card."""

    def __init__(self, shape: dict[str, Any], device: torch.device, rounds: int, tokens: int) -> None:
        self.device, self.rounds, self.tokens = device, rounds, tokens
        self.cuda = device.type == "cuda"
        tiny = sarsteer.load_model("sarsteer-tiny", device="cpu")
        items = sarsteer.load_pairs("sarsteer-tiny").harmful[:8]
        self.turns = [sarsteer.user_turn(item.audio, INSTRUCTION) for item in items]
        self.models = [random_model(shape, tiny.processor, device, torch.bfloat16)]
        if not self.cuda or torch.cuda.mem_get_info()[0] > 1.3 * torch.cuda.memory_allocated():
            self.models.append(random_model(shape, tiny.processor, device, torch.bfloat16))
        self.prompts: list[list[Prompt]] = [model.prepare(self.turns) for model in self.models]
        layers, width = len(self.models[0].decoder_layers), self.models[0].hidden_size
        self.vectors = 1e-3 * torch.randn(layers, width)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Wall-clock seconds until the device has finished."""
        self._wait()
        began = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def steered(self, which: int) -> AbstractContextManager[Any]:
        """Attach the vectors to a copy of the model."""
        model = self.models[which]
        return attach(model.module, model.decoder_layers, ResolvedStrength(self.vectors, ALPHA))

    def answer(self, which: int, batch: int, tokens: int, graphs: bool) -> None:
        """One answer; with ``graphs``, from a static cache through compiled decode steps."""
        options: dict[str, Any] = {}
        if graphs:
            compiled = T.CompileConfig(mode="reduce-overhead" if self.cuda else "default", dynamic=False)
            compiled._compile_all_devices = True  # transformers compiles for CUDA only; --tiny tests the same path
            options = dict(cache_implementation="static", compile_config=compiled)
        model, prompts = self.models[which], self.prompts[which][:batch]
        model.generate(prompts, tokens, min_new_tokens=tokens, batch_size=batch, **options)

    def overhead(self, batch: int, tokens: int, graphs: bool) -> dict[str, Any]:
        """Steered / plain."""
        ratios, plain = [], []
        last = len(self.models) - 1
        for first in (0, last):
            # attaching drops what was compiled, so that it comes before the first answer
            with self.steered(first) if last else nullcontext():
                for which in range(last + 1):
                    self.answer(which, batch, tokens, graphs)
                    self.answer(which, batch, tokens, graphs)
                for index in range(self.rounds // 2):
                    times: dict[bool, float] = {}
                    for steered in (True, False) if index % 2 else (False, True):
                        which = first if steered else last - first
                        with self.steered(which) if steered and not last else nullcontext():
                            times[steered] = self.seconds(lambda w=which: self.answer(w, batch, tokens, graphs))
                    ratios.append(times[True] / times[False])
                    plain.append(times[False])
        median, interval = median_interval(ratios)
        seconds = sorted(plain)[len(plain) // 2]
        return {"ratio": median, "interval": interval, "plain_s": seconds, "tokens": tokens, "rounds": len(ratios)}

    def calibration(self, pairs: int) -> dict[str, Any]:
        """Seconds per pair, and the ratio to two prefills per pair whose clips are encoded."""
        model, chosen = self.models[0], sarsteer.load_pairs("sarsteer-tiny")[:pairs]
        turns = [item.turn(INSTRUCTION) for item in (*chosen.harmful, *chosen.safe)]

        def calibrate() -> None:
            model.clip_cache.clear()
            sarsteer.calibrate(model, chosen, target_fpr=None)

        def prefills() -> None:
            model.last_token_activations(model.prepare(turns, remember=False))

        calibrate(), prefills()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        times = [(self.seconds(calibrate), self.seconds(prefills)) for _ in range(max(3, self.rounds // 4))]
        peak = torch.cuda.max_memory_allocated() if self.cuda else 0
        median, interval = median_interval([a / b for a, b in times])
        per_pair = median_interval([a for a, _ in times])[0] / pairs
        return {"seconds_per_pair": per_pair, "over_two_prefills": median, "interval": interval, "pairs": pairs,
                "peak_bytes": peak}  # fmt: skip

    def memory(self) -> dict[str, int]:
        """Peak bytes of an answer at batch 8, plain and steered."""
        found: dict[str, int] = {}
        for side in ("plain", "steered"):
            with self.steered(0) if side == "steered" else nullcontext():
                if self.cuda:
                    torch.cuda.reset_peak_memory_stats()
                self.answer(0, 8, self.tokens, False)
                found[side] = torch.cuda.max_memory_allocated() if self.cuda else 0
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument("--tiny", action="store_true", help="test the code on the CPU with a tiny model")
    parser.add_argument("--out", type=Path, default=HERE / "gpu.json")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        sys.exit("no CUDA device: this benchmark needs a GPU with at least 24 GB (--tiny tests its code on the CPU)")
    T.logging.set_verbosity_error()
    T.logging.disable_progress_bar()
    device = torch.device("cpu" if args.tiny else "cuda")
    bench = Bench(TINY if args.tiny else SEVEN_B, device, args.rounds, args.tokens)
    results: dict[str, Any] = {
        "card": platform.processor() or "CPU" if args.tiny else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "transformers": T.__version__, "cuda": torch.version.cuda},
        "parameters": sum(p.numel() for p in bench.models[0].module.parameters()),
        "dtype": "bfloat16",
    }
    print(f"{results['card']}: {results['parameters'] / 1e9:.2f} billion parameters in bfloat16")
    for batch in args.batches:
        for what, tokens in (("prefill", 1), ("decode", args.tokens), ("graphs", args.tokens)):
            graphs = what == "graphs"
            if graphs and args.eager:
                continue
            if graphs and len(bench.models) < 2:
                print("CUDA graphs: skipped, because two copies of the model do not fit")
                continue
            found = bench.overhead(batch, tokens, graphs)
            results[f"{what}, batch {batch}"] = found
            low, high = found["interval"]
            print(f"{what}, batch {batch}: steered / plain {found['ratio']:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    results["calibration"] = bench.calibration(args.pairs)
    print(f"calibration: {results['calibration']['seconds_per_pair']:.3f} s per pair, "
          f"{results['calibration']['over_two_prefills']:.2f} times two prefills")  # fmt: skip
    results["memory"] = bench.memory()
    print(f"peak memory: {results['memory']['plain'] / 2**20:.0f} MiB plain, "
          f"{results['memory']['steered'] / 2**20:.0f} MiB steered")  # fmt: skip
    if not args.tiny:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
