"""Prove that the hooks steer: a probe prefill and a probe decode step, before the first answer.

Each layer's output just before and just after steering is compared: the last position must differ by exactly what was
added, every other position by nothing. If something is compiled, a second run shows that the compiled graphs contain
the hooks too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.activations import residual_of
from sarsteer.models.layers import generating_part, text_config, unwrap
from sarsteer.steering.hooks import DELTA, steered_forward

_PROBE_TOKENS = 3
STEPS = ("prefill", "decode step")
ROW_FACTORS = torch.tensor([[1.0], [-0.5]])
"""What the marks of two rows are multiplied by to prove that rows are steered differently; exact in bfloat16."""

Probe = Callable[[], list[torch.Tensor]]
"""Generates two tokens, a prefill and a decode step, and returns the logits of each."""


@torch.no_grad()
def prove(
    module: nn.Module,
    layers: Sequence[nn.Module],
    write: Callable[[torch.Tensor], None],
    probe: Probe | None = None,
    factors: torch.Tensor | None = None,
) -> None:
    """Raise ``SteeringError`` unless every layer's hook steers a prefill and a decode step of ``module``.

    Args:
        module: the model, as its user calls it.
        layers: its decoder layers, with the hooks.
        write: sets what the hooks add, ``[L, D]``, or ``[L, B, D]`` with ``factors``.
        probe: generates two tokens for a model with its own decoding loop; transformers' ``generate`` by default.
        factors: ``[B, 1]``: proves that the rows of a batch are steered differently, by what is added times these. The
            probe then has B rows.

    """
    probe = probe or (lambda: generate_two_tokens(module, rows=1 if factors is None else len(factors)))
    marks = known_marks(layers, factors)
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
                    raise SteeringError(f"the compiled {step} does not contain the hooks; attach before torch.compile")
    finally:
        write(torch.zeros_like(marks))


def is_compiled(module: nn.Module) -> bool:
    """Whether any part of ``module`` is compiled by ``torch.compile``."""
    parts: list[Any] = [module, *unwrap(module).modules()]
    return any(hasattr(p, "_orig_mod") or getattr(p, "_compiled_call_impl", None) is not None for p in parts)


def known_marks(layers: Sequence[nn.Module], factors: torch.Tensor | None = None) -> torch.Tensor:
    """``[L, D]``, or ``[L, B, D]`` with ``factors``: what the hooks add during a proof, instead of the vectors.

    The values are exact in bfloat16, differ between layers, and alternate in sign so that no norm cancels them.
    """
    signs = torch.ones(getattr(layers[0], DELTA).shape[-1])
    signs[::2] = -1
    marks = torch.stack([signs * (1 + index % 8) / 8 for index in range(len(layers))])
    return marks if factors is None else marks[:, None] * factors


LayerOutputs = list[list[torch.Tensor]]
"""For each layer, its whole output in each forward."""


def recorded(layers: Sequence[nn.Module], probe: Probe) -> tuple[LayerOutputs, LayerOutputs]:
    """Run ``probe``, and return the layers' outputs before steering and after all hooks."""
    before: LayerOutputs = [[] for _ in layers]
    after: LayerOutputs = [[] for _ in layers]
    hooks = [steered_forward(layer) for layer in layers]
    forwards = [hook.forward for hook in hooks]
    last = [layer.register_forward_hook(_keeping(seen)) for layer, seen in zip(layers, after, strict=True)]
    try:
        for hook, seen in zip(hooks, before, strict=True):
            hook.forward = _recording(hook.forward, seen)
        # in eager mode, compiled or not: graphs traced with the recorders would be discarded at once
        with torch.compiler.set_stance("force_eager"):
            probe()
    finally:
        for hook, forward, remover in zip(hooks, forwards, last, strict=True):
            hook.forward = forward
            remover.remove()
    return before, after


def _recording(forward: Callable[..., Any], seen: list[torch.Tensor]) -> Callable[..., Any]:
    def record(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        seen.append(_copy(output))
        return output

    return record


def _keeping(seen: list[torch.Tensor]) -> Callable[..., None]:
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append(_copy(output))

    return keep


def _copy(output: Any) -> torch.Tensor:
    return residual_of(output).detach().clone()


def check_layer(index: int, before: list[torch.Tensor], after: list[torch.Tensor], mark: torch.Tensor) -> None:
    """Raise unless each forward's last position received ``mark`` (``[D]``, or ``[B, D]`` per row), and only that."""
    for number, step in enumerate(STEPS):
        if len(before) <= number or len(after) <= number:
            raise SteeringError(
                f"decoder layer {index} did not run in a {step}; name the decoder's layers with layers='path.to.layers'"
            )
        old, new = before[number], after[number]
        expected = old.clone()
        expected[..., -1, :] = (old[..., -1, :].float() + mark.to(old.device)).to(old.dtype)
        if not torch.equal(new, expected):
            raise SteeringError(
                f"the hook on decoder layer {index} did not steer exactly the last position of a {step}; "
                "something else changes this layer's output: remove other hooks"
            )


def generate_two_tokens(module: nn.Module, rows: int = 1) -> list[torch.Tensor]:
    """Run a prefill and a decode step of different rows with the model's ``generate``; returns the logits of each."""
    from transformers import GenerationConfig

    target = generating_part(module)
    inner: Any = unwrap(target)
    tokens = probe_prompts(module, rows)
    if not hasattr(target, "generate"):
        raise SteeringError(
            f"{type(inner).__name__} has no generate(), so its decoding cannot be proven steered; give a probe that "
            "generates two tokens"
        )
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


def probe_prompts(module: nn.Module, rows: int = 1) -> torch.Tensor:
    """Different short prompts of plain tokens, ``[rows, T]``, on the model's device."""
    inner: Any = unwrap(generating_part(module))
    device = inner.get_input_embeddings().weight.device
    return torch.tensor(_plain_tokens(inner, rows * _PROBE_TOKENS), device=device).view(rows, _PROBE_TOKENS)


def _plain_tokens(model: Any, count: int) -> list[int]:
    """Token ids of text: no padding, no placeholder of another modality."""
    special: set[int] = set()
    for config in (model.config, text_config(model)):
        for name, value in vars(config).items():
            if name.endswith(("token_id", "token_index")):
                special |= {v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, int)}
    size = model.get_input_embeddings().weight.shape[0]
    return [token for token in range(size) if token not in special][:count]
