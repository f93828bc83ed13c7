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
from sarsteer.models.layers import text_config, unwrap
from sarsteer.steering.activations import residual_of

_PROBE_TOKENS = 3


@torch.no_grad()
def prove(module: nn.Module, layers: Sequence[nn.Module], write: Callable[[torch.Tensor], None]) -> None:
    """Raise ``SteeringError`` unless every layer's hook steers a prefill and a decode step of ``module``.

    Args:
        module: the model as its user calls it.
        layers: its decoder layers, hooks attached.
        write: sets what the hooks add, ``[L, D]``.

    """
    width = getattr(layers[0], "_sarsteer_delta").shape[0]
    # Values that bfloat16 holds exactly, another in each layer, alternating in sign so that no norm cancels them.
    signs = torch.ones(width)
    signs[::2] = -1
    marks = torch.stack([signs * (1 + index % 8) / 8 for index in range(len(layers))])
    compiled = is_compiled(module)
    try:
        write(marks)
        before, after = _Recorder(layers, prepend=True), _Recorder(layers, prepend=False)
        with before, after:
            for step, _ in _probe_steps(module):
                _check_step(step, before.take(), after.take(), marks)
        if compiled:
            torch._dynamo.reset()
            steered = [logits for _, logits in _probe_steps(module)]
            write(torch.zeros_like(marks))
            plain = [logits for _, logits in _probe_steps(module)]
            for step, (a, b) in zip(("prefill", "decode step"), zip(steered, plain, strict=True), strict=True):
                if torch.equal(a, b):
                    raise SteeringError(f"the compiled {step} left the hooks out; attach before torch.compile")
    finally:
        write(torch.zeros_like(marks))


def is_compiled(module: nn.Module) -> bool:
    """Whether any part of ``module`` goes through ``torch.compile``."""
    parts: list[Any] = [module, *unwrap(module).modules()]
    return any(hasattr(p, "_orig_mod") or getattr(p, "_compiled_call_impl", None) is not None for p in parts)


class _Recorder:
    """Copies of every layer's whole output, before or after the hooks that are there."""

    def __init__(self, layers: Sequence[nn.Module], prepend: bool) -> None:
        self._layers, self._prepend = layers, prepend
        self._seen: dict[int, torch.Tensor] = {}
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
            self._seen[index] = residual_of(output).detach().clone()

        return record

    def take(self) -> list[torch.Tensor | None]:
        seen = [self._seen.get(index) for index in range(len(self._layers))]
        self._seen.clear()
        return seen


def _check_step(
    step: str, before: list[torch.Tensor | None], after: list[torch.Tensor | None], marks: torch.Tensor
) -> None:
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if old is None or new is None:
            raise SteeringError(f"decoder layer {index} did not run in a {step}; these are not the decoder's layers")
        wanted = old.clone()
        last = old[..., -1, :].float() + marks[index].to(old.device)
        wanted[..., -1, :] = last.to(old.dtype)
        if not torch.equal(new, wanted):
            raise SteeringError(
                f"the hook on decoder layer {index} did not steer exactly the last position of a {step}; "
                "something else changes this layer's output"
            )


def _probe_steps(module: nn.Module) -> Any:
    """Run a prefill, then a decode step; yields the step's name and its logits after each."""
    target: Any = getattr(unwrap(module), "thinker", None) or module
    inner: Any = unwrap(target)
    device = inner.get_input_embeddings().weight.device
    tokens = torch.tensor([_plain_tokens(inner, _PROBE_TOKENS + 1)], device=device)
    out = target(
        input_ids=tokens[:, :-1], attention_mask=torch.ones_like(tokens[:, :-1]), use_cache=True, return_dict=True
    )
    yield "prefill", _logits(out)
    cache = getattr(out, "past_key_values", None)
    if cache is None:
        raise SteeringError(f"{type(inner).__name__} returned no key-value cache, so decoding cannot be proven")
    out = target(
        input_ids=tokens[:, -1:],
        attention_mask=torch.ones_like(tokens),
        past_key_values=cache,
        use_cache=True,
        return_dict=True,
    )
    yield "decode step", _logits(out)


def _logits(output: Any) -> torch.Tensor:
    logits = getattr(output, "logits", None)
    found: torch.Tensor = logits if logits is not None else output.last_hidden_state
    return found[:, -1].float()


def _plain_tokens(model: Any, count: int) -> list[int]:
    """Ids that stand for text: no padding, no placeholder of another modality."""
    special: set[int] = set()
    for config in (model.config, text_config(model)):
        for name, value in vars(config).items():
            if name.endswith(("token_id", "token_index")):
                special |= {v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, int)}
    size = model.get_input_embeddings().weight.shape[0]
    return [token for token in range(size) if token not in special][:count]
