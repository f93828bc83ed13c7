"""What steering adds to one decode step, in place: ``python -m benchmarks.step``.

Each step of a model is timed alone. The sides alternate after a few steps on one copy of the model, so that caches of
the processor are as cold for the hooks as in an answer (a loop over the hook alone is several times as fast):

- ``sarsteer``: the attached steering, with its check of each forward;
- ``addition``: a ``forward`` that adds in place and does nothing else, the floor;
- ``torch hook``: the same addition in a hook of torch, as sarsteer did until November 26;
- ``empty hook``: a hook of torch that does nothing;
- ``plain again``: the plain model, as a control.

With ``--compiled``, a ``torch.compile`` of the whole step with a static cache, steered beside plain: two copies of the
model that swap roles after half of the steps. Then what the guard of ``generate`` takes once per call. Times are of the
thread's processor time; figures are medians with 95 % intervals (bootstrap). Writes ``benchmarks/step.json``, and keeps
the figures in it that were not measured again, and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as T

import sarsteer
from benchmarks.run import HERE, large
from benchmarks.spread import median_interval
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.steering.handle import attach
from sarsteer.steering.hooks import DELTA
from sarsteer.steering.strength import ResolvedStrength

ALPHA, LENGTH, BLOCK = 0.1, 64, 6
BEGIN, END = "<!-- step -->", "<!-- end of step -->"
SIDES = ("plain", "sarsteer", "addition", "torch hook", "empty hook", "plain again")
Step = Callable[[], Any]


def microseconds(step: Step) -> float:
    """Processor time of this thread."""
    began = time.thread_time_ns()
    step()
    return (time.thread_time_ns() - began) / 1e3


def figures(times: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Each side beside ``base``."""
    found: dict[str, Any] = {f"{base}, us": median_interval(times[base])[0]}
    for side, used in times.items():
        if side != base:
            ratio, interval = median_interval([a / b for a, b in zip(used, times[base], strict=True)])
            more, bounds = median_interval([a - b for a, b in zip(used, times[base], strict=True)])
            found[side] = {"ratio": ratio, "interval": interval, "more_us": more, "more_us_interval": bounds}
    return {**found, "steps": len(times[base]), "load": os.getloadavg()[0]}


def vectors_of(model: AudioLanguageModel) -> torch.Tensor:
    """Small random vectors."""
    return 1e-3 * torch.randn(len(model.decoder_layers), model.hidden_size)


class Eager:
    """One model whose sides are switched between steps."""

    def __init__(self, model: AudioLanguageModel, batch: int) -> None:
        self.module: Any = model.module
        self.layers: list[Any] = list(model.decoder_layers)
        self.handle = attach(self.module, self.layers, ResolvedStrength(vectors_of(model), ALPHA))
        self.checks = self.module._forward_pre_hooks
        self.steered = [layer.forward for layer in self.layers]
        bare = [steered.forward for steered in self.steered]
        self.forwards: dict[str, list[Any]] = dict.fromkeys(SIDES, bare)
        self.forwards |= {"sarsteer": self.steered, "addition": [added(layer) for layer in self.layers]}
        self.own_hooks = [layer._forward_hooks for layer in self.layers]
        self.hooks: dict[str, Any] = {side: OrderedDict() for side in SIDES}
        self.hooks |= {"torch hook": OrderedDict({0: hook}), "empty hook": OrderedDict({0: empty})}
        ids = torch.randint(300, self.module.get_input_embeddings().weight.shape[0], (batch, LENGTH))
        self.cache: Any = T.DynamicCache(config=self.module.config.get_text_config())
        self.module(input_ids=ids, past_key_values=self.cache, use_cache=True)
        self.inputs = {"input_ids": ids[:, -1:], "attention_mask": torch.ones(batch, LENGTH + 1, dtype=torch.long)}

    def use(self, side: str) -> None:
        """Switch to ``side``."""
        self.module._forward_pre_hooks = self.checks if side == "sarsteer" else OrderedDict()
        for layer, forward in zip(self.layers, self.forwards[side], strict=True):
            layer.forward = forward
            layer._forward_hooks = self.hooks[side]

    def step(self) -> None:
        """One decode step."""
        self.module(**self.inputs, past_key_values=self.cache, use_cache=True)

    def measure(self, steps: int) -> dict[str, Any]:
        """Times of all sides, alternating; the steering is removed afterwards."""
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        order = list(SIDES)
        for _ in range(max(2, steps // (BLOCK - 1))):
            random.shuffle(order)
            for side in order:
                self.use(side)
                for index in range(BLOCK):
                    used = microseconds(self.step)
                    self.cache.crop(-1)
                    if index:  # the first one warms the caches up, as in an answer
                        times[side].append(used)
        self.use("sarsteer")
        for layer, own in zip(self.layers, self.own_hooks, strict=True):
            layer._forward_hooks = own
        self.handle.remove()
        return figures(times, "plain")


def added(layer: Any) -> Callable[..., Any]:
    """The floor: the layer's forward and one addition."""
    forward, delta = layer.forward.forward, layer.get_buffer(DELTA)

    def call(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.add_(delta)
        return output

    return call


def hook(layer: Any, _args: Any, output: Any) -> None:
    """The addition in a hook of torch, in decode steps."""
    hidden, delta = output[0] if isinstance(output, tuple) else output, getattr(layer, DELTA)
    if torch.is_tensor(hidden) and hidden.ndim == 3 and delta.dtype == torch.float32:
        (hidden if hidden.shape[-2] == 1 else hidden.select(-2, -1)).add_(delta)


def empty(_layer: Any, _args: Any, _output: Any) -> None:
    """What any hook of torch takes."""


def compiled_step(module: Any, batch: int) -> Step:
    """A decode step as one graph; ``fullgraph`` refuses graph breaks."""
    cache = T.StaticCache(config=module.config.get_text_config(), max_cache_len=2 * LENGTH)
    ids = torch.randint(300, module.get_input_embeddings().weight.shape[0], (batch, LENGTH))
    module(input_ids=ids, past_key_values=cache, use_cache=True)
    run = torch.compile(module, fullgraph=True, dynamic=False)
    inputs = {
        "input_ids": ids[:, -1:],
        "attention_mask": torch.ones(batch, LENGTH + 1, dtype=torch.long),
        "position_ids": torch.full((batch, 1), LENGTH),
    }

    def step() -> None:
        for layer in cache.layers:  # the same position again
            layer.cumulative_length.fill_(LENGTH)
        run(**inputs, past_key_values=cache, use_cache=True)

    return step


def compiled(models: list[AudioLanguageModel], batch: int, steps: int) -> dict[str, Any]:
    """Steered beside plain."""
    times: dict[str, list[float]] = {"steered": [], "plain": []}
    for first in (0, 1):
        # attaching drops what was compiled, so that it comes first
        one = models[first]
        with attach(one.module, one.decoder_layers, ResolvedStrength(vectors_of(one), ALPHA)):
            runs = {
                "steered": compiled_step(one.module, batch),
                "plain": compiled_step(models[1 - first].module, batch),
            }
            for index in range(steps // 2 + 5):
                for side in ("steered", "plain") if index % 2 else ("plain", "steered"):
                    used = microseconds(runs[side])
                    if index >= 5:
                        times[side].append(used)
    return figures(times, "plain")


def guard(model: AudioLanguageModel, rounds: int) -> dict[str, Any]:
    """``generate`` of one token, steered beside plain: what a call takes beside its decode steps."""
    ids = torch.randint(300, model.module.get_input_embeddings().weight.shape[0], (1, 32))
    inner: Any = model.module

    def call() -> None:
        inner.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0
        )

    times: dict[str, list[float]] = {"plain": [], "steered": []}
    strength = ResolvedStrength(vectors_of(model), ALPHA)
    for index in range(rounds):
        for side in ("steered", "plain") if index % 2 else ("plain", "steered"):
            if side == "plain":
                call()
                times[side].append(microseconds(call))
            else:
                with attach(inner, model.decoder_layers, strength):
                    call()
                    times[side].append(microseconds(call))
    return figures(times, "plain")


def cell(found: dict[str, Any]) -> str:
    """A side's figures as text."""
    low, high = found["interval"]
    return f"{found['ratio']:.4f} [{low:.4f}, {high:.4f}], {found['more_us']:+.1f} us"


def markdown(results: dict[str, Any]) -> str:
    """The figures as tables."""
    lines = [
        "| a step / a plain one | sarsteer | the addition | a hook of torch | an empty hook | plain again | plain, ms |"
    ]
    lines.append("|---|---|---|---|---|---|---|")

    def row(title: str, found: dict[str, Any], sides: tuple[str, ...]) -> None:
        cells = [_short(found[side]) if side in found else "" for side in sides]
        lines.append(f"| {title} | {' | '.join(cells)} | {found['plain, us'] / 1e3:.2f} |")

    for title, found in results.items():
        if title.startswith("eager"):
            row(title, found, SIDES[1:])
        elif title.startswith(("compiled", "generate")):
            row(title, found, ("steered", "", "", "", ""))
    return "\n".join(lines)


def _short(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['ratio']:.3f} [{low:.3f}, {high:.3f}]"


def write_table(results: dict[str, Any]) -> None:
    """Put the table into the docs."""
    docs = HERE.parent / "docs" / "benchmarks.md"
    before, rest = docs.read_text().split(BEGIN)
    docs.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("toy", "100M"), default=["toy", "100M"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--steps", type=int, default=0, help="of each side; by default 800 of the toy, 150 of 100M")
    parser.add_argument("--compiled", action="store_true", help="compiled steps in place of eager ones")
    parser.add_argument("--out", type=Path, default=HERE / "step.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    random.seed(0)
    T.logging.set_verbosity_error()
    T.logging.disable_progress_bar()
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    results |= {"torch": torch.__version__, "transformers": T.__version__, "threads": 1}
    tiny = [sarsteer.load_model("sarsteer-tiny", device="cpu") for _ in range(1 + args.compiled)]
    for name in args.models:
        models = tiny if name == "toy" else [large(tiny[0].processor) for _ in tiny]
        steps = args.steps or (800 if name == "toy" else 150)
        rows: dict[str, Callable[[], dict[str, Any]]] = {}
        for batch in args.batches:
            if args.compiled:
                rows[f"compiled, {name}, batch {batch}"] = lambda m=models, b=batch, s=steps: compiled(m, b, s)
            else:
                rows[f"eager, {name}, batch {batch}"] = lambda m=models, b=batch, s=steps: Eager(m[0], b).measure(s)
        if not args.compiled:
            rows[f"generate of one token, {name}"] = lambda m=models, s=steps: guard(m[0], max(20, s // 8))
        for title, run in rows.items():
            results[title] = run()
            args.out.write_text(json.dumps(results, indent=2) + "\n")
            for side, found in results[title].items():
                if isinstance(found, dict):
                    print(f"{title}, {side} / plain: {cell(found)}", flush=True)
    write_table(results)


if __name__ == "__main__":
    main()
