"""Prove that hooks steer: a probe forward and a probe decode step, before the first answer.

Layer by layer the output just before and just after steering are held against each other: the last position must
differ by exactly what was to be added, every other position by nothing. Where something is compiled, a second run
shows that the compiled graphs hold the hooks too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.activations import residual_of
from sarsteer.models.layers import generating_part, text_config, unwrap

_PROBE_TOKENS = 3
STEPS = ("prefill", "decode step")

Probe = Callable[[], list[torch.Tensor]]
"""Generates two tokens, a prefill and a decode step, and returns the logits of each."""


@torch.no_grad()
def prove(
    module: nn.Module,
    layers: Sequence[nn.Module],
    write: Callable[[torch.Tensor], None],
    probe: Probe | None = None,
) -> None:
    """Raise ``SteeringError`` unless every layer's hook steers a prefill and a decode step of ``module``.

    Args:
        module: the model as its user calls it.
        layers: its decoder layers, hooks attached.
        write: sets what the hooks add, ``[L, D]``.
        probe: generates two tokens by the model's own way; transformers' ``generate`` by default.

    """
    probe = probe or (lambda: generate_two_tokens(module))
    marks = known_marks(layers)
    compiled = is_compiled(module)
    try:
        write(marks)
        before, after = recorded(layers, probe)
        for index in range(len(layers)):
            check_layer(index, before[index], after[index], marks[index])
        if compiled:
            steered = probe()
            write(torch.zeros_like(marks))
            for step, a, b in zip(STEPS, steered, probe(), strict=True):
                if torch.equal(a, b):
                    raise SteeringError(f"the compiled {step} left the hooks out; attach before torch.compile")
    finally:
        write(torch.zeros_like(marks))


def is_compiled(module: nn.Module) -> bool:
    """Whether any part of ``module`` goes through ``torch.compile``."""
    parts: list[Any] = [module, *unwrap(module).modules()]
    return any(hasattr(p, "_orig_mod") or getattr(p, "_compiled_call_impl", None) is not None for p in parts)


def known_marks(layers: Sequence[nn.Module]) -> torch.Tensor:
    """``[L, D]``, what is added instead of vectors while something is proven.

    Values that bfloat16 holds exactly, another in each layer, alternating in sign so that no norm cancels them.
    """
    signs = torch.ones(getattr(layers[0], "_sarsteer_delta").shape[0])
    signs[::2] = -1
    return torch.stack([signs * (1 + index % 8) / 8 for index in range(len(layers))])


Seen = list[list[torch.Tensor]]
"""For each layer, its whole output in each forward."""


def recorded(layers: Sequence[nn.Module], probe: Probe) -> tuple[Seen, Seen]:
    """Run ``probe``; what the layers gave before and after the hooks that are there."""
    before, after = _Recorder(layers, prepend=True), _Recorder(layers, prepend=False)
    # in eager mode, compiled or not: graphs made for the recorders would be thrown away at once
    with torch.compiler.set_stance("force_eager"), before, after:
        probe()
    return before.seen, after.seen


class _Recorder:
    """Copies of every layer's whole output, before or after the hooks that are there."""

    def __init__(self, layers: Sequence[nn.Module], prepend: bool) -> None:
        self._layers, self._prepend = layers, prepend
        self.seen: Seen = [[] for _ in layers]
        self._hooks: list[Any] = []

    def __enter__(self) -> _Recorder:
        for index, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_hook(self._hook(index), prepend=self._prepend))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, index: int) -> Any:
        def record(_module: nn.Module, _args: Any, output: Any) -> None:
            self.seen[index].append(residual_of(output).detach().clone())

        return record


def check_layer(index: int, before: list[torch.Tensor], after: list[torch.Tensor], mark: torch.Tensor) -> None:
    """Raise unless each forward's last position got ``mark`` (``[D]``, or ``[B, D]``, a row each), and nothing else."""
    for number, step in enumerate(STEPS):
        if len(before) <= number or len(after) <= number:
            raise SteeringError(f"decoder layer {index} did not run in a {step}; these are not the decoder's layers")
        old, new = before[number], after[number]
        wanted = old.clone()
        wanted[..., -1, :] = (old[..., -1, :].float() + mark.to(old.device)).to(old.dtype)
        if not torch.equal(new, wanted):
            raise SteeringError(
                f"the hook on decoder layer {index} did not steer exactly the last position of a {step}; "
                "something else changes this layer's output"
            )


def generate_two_tokens(module: nn.Module, rows: int = 1) -> list[torch.Tensor]:
    """By the model's own ``generate``, a prefill and a decode step of different rows; the logits of each."""
    from transformers import GenerationConfig

    target = generating_part(module)
    inner: Any = unwrap(target)
    if not hasattr(target, "generate"):
        raise SteeringError(f"{type(inner).__name__} has no generate(), so that its decoding cannot be proven steered")
    device = inner.get_input_embeddings().weight.device
    tokens = torch.tensor(_plain_tokens(inner, rows * _PROBE_TOKENS), device=device).view(rows, _PROBE_TOKENS)
    config = GenerationConfig(
        max_new_tokens=len(STEPS),
        min_new_tokens=len(STEPS),
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        disable_compile=True,
    )
    out = target.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
    return [logits.float() for logits in out.logits]


def _plain_tokens(model: Any, count: int) -> list[int]:
    """Ids that stand for text: no padding, no placeholder of another modality."""
    special: set[int] = set()
    for config in (model.config, text_config(model)):
        for name, value in vars(config).items():
            if name.endswith(("token_id", "token_index")):
                special |= {v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, int)}
    size = model.get_input_embeddings().weight.shape[0]
    return [token for token in range(size) if token not in special][:count]
