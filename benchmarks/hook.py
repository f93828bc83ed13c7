"""What the steering hook costs at one decoder layer, in microseconds of CPU time: ``python -m benchmarks.hook``.

Calls a module that returns its input, with each of these in turn: nothing, a hook that does nothing, the steering hook,
the same hook with a view of the last position in decode steps too, and a wrapped ``forward`` in place of a hook. The
rounds are interleaved; figures are medians with 95 % intervals (bootstrap over rounds), less the call without anything.
Then what the guard of ``generate`` costs once per call, and transformers' merge of the generation configuration in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers as T
from torch import nn

from benchmarks.spread import median_interval
from sarsteer.models.activations import residual_of
from sarsteer.steering.decoding import check_decoding
from sarsteer.steering.hooks import DELTA, delta_of, steer


class Layer(nn.Module):
    """Returns its input."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Nothing is computed, so that only the call is measured."""
        return hidden


def nothing(_module: nn.Module, _args: Any, _output: Any) -> None:
    """A hook that does nothing: what any hook costs."""


def with_view(module: nn.Module, _args: Any, output: Any) -> None:
    """The steering hook as it was: a view in decode steps too."""
    residual_of(output).select(-2, -1).add_(delta_of(module))


def hooked(width: int, hook: Any) -> nn.Module:
    """A layer with a hook."""
    layer = Layer()
    layer.register_buffer(DELTA, torch.zeros(width), persistent=False)
    if hook is not None:
        layer.register_forward_hook(hook, prepend=True)
    return layer


def wrapped(width: int) -> nn.Module:
    """A layer whose ``forward`` is replaced by one that also steers."""
    layer: Any = hooked(width, None)
    forward: Callable[..., torch.Tensor] = layer.forward

    def steered(*args: Any, **kwargs: Any) -> torch.Tensor:
        output = forward(*args, **kwargs)
        steer(layer, args, output)
        return output

    layer.forward = steered
    return layer  # type: ignore[no-any-return]


def guard(rounds: int) -> None:
    """Measure the guard of ``generate``."""
    config = T.Qwen2Config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    model: Any = T.Qwen2ForCausalLM(config)
    options: dict[str, Any] = dict(max_new_tokens=2, do_sample=False)
    sides: dict[str, Callable[[], Any]] = {
        "the guard of generate": lambda: check_decoding(model, model.generate, (), options),
        "of which merging the configuration": lambda: model._prepare_generation_config(None, **options),
    }
    for side, run in sides.items():
        used = []
        for _ in range(rounds):
            began = time.thread_time()
            for _ in range(20):
                run()
            used.append((time.thread_time() - began) / 20 * 1e6)
        median, (low, high) = median_interval(used)
        print(f"each call, {side}: {median:.0f} us [{low:.0f}, {high:.0f}]")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--calls", type=int, default=2000, help="calls of each side in a round")
    parser.add_argument("--rounds", type=int, default=41)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for step, positions in (("decode step", 1), ("prefill of 32", 32)):
        hidden = torch.randn(1, positions, args.width)
        sides = {
            "no hook": hooked(args.width, None),
            "a hook that does nothing": hooked(args.width, nothing),
            "the steering hook": hooked(args.width, steer),
            "with a view in decode steps": hooked(args.width, with_view),
            "a wrapped forward": wrapped(args.width),
        }
        used: dict[str, list[float]] = {side: [] for side in sides}
        for index in range(args.rounds):
            for side in list(sides)[:: 1 if index % 2 else -1]:
                layer = sides[side]
                began = time.thread_time()
                for _ in range(args.calls):
                    layer(hidden)
                used[side].append((time.thread_time() - began) / args.calls * 1e6)
        for side in list(sides)[1:]:
            median, (low, high) = median_interval([a - b for a, b in zip(used[side], used["no hook"], strict=True)])
            print(f"{step}, {side}: {median:.2f} us [{low:.2f}, {high:.2f}]", flush=True)
    guard(args.rounds)


if __name__ == "__main__":
    main()
