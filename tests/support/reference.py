"""A second implementation of the method: in float64, one clip at a time, from its definition.

It uses no code of the package, only transformers and numpy: it reads clips, writes prompts, hooks layers and computes
the SVD itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile
import torch


def prompt_inputs(processor: Any, clip: np.ndarray, text: str) -> dict[str, torch.Tensor]:
    """The chat-templated prompt of one clip and a text, with the generation prompt."""
    content = [{"type": "audio", "audio": clip}, {"type": "text", "text": text}]
    return dict(
        processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
    )


def read(path: Any) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    assert samples.ndim == 1
    return samples


def last_token(model: Any, processor: Any, clip: np.ndarray, text: str) -> np.ndarray:
    """``[L, D]``: each decoder layer's output at the last prompt token, by its own hooks."""
    rows: dict[int, np.ndarray] = {}
    layers = model.model.language_model.layers

    def keep(index: int) -> Any:
        def hook(_m: Any, _a: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            rows[index] = hidden[0, -1].double().numpy()

        return hook

    hooks = [layer.register_forward_hook(keep(i)) for i, layer in enumerate(layers)]
    inputs = prompt_inputs(processor, clip, text)
    with torch.no_grad():
        model(**{k: v.double() if v.is_floating_point() else v for k, v in inputs.items() if k != "num_audio_tokens"})
    for hook in hooks:
        hook.remove()
    return np.stack([rows[i] for i in range(len(layers))])


def refusal_and_safe(
    model: Any, processor: Any, harmful: Sequence[np.ndarray], safe: Sequence[np.ndarray], t: str, p: str
) -> tuple[np.ndarray, np.ndarray]:
    """``r`` ``[L, D]`` and the safe activations ``[n, L, D]``, with the model in float64."""
    double = model.double()
    differences = [
        last_token(double, processor, clip, t + p) - last_token(double, processor, clip, t) for clip in harmful
    ]
    activations = [last_token(double, processor, clip, t) for clip in safe]
    return np.mean(differences, axis=0), np.stack(activations)


def ablated(r: np.ndarray, safe: np.ndarray, k: int, lambda_: float) -> np.ndarray:
    """``v_l = r_l − λ U_l U_lᵀ r_l`` from a full SVD of the centred safe activations."""
    out = []
    for layer in range(r.shape[0]):
        hidden = safe[:, layer] - safe[:, layer].mean(axis=0)
        _, _, right = np.linalg.svd(hidden, full_matrices=False)
        u = right[:k].T
        out.append(r[layer] - lambda_ * (u @ (u.T @ r[layer])))
    return np.stack(out)


def residual(output: Any) -> torch.Tensor:
    """``[B, T, D]`` in a layer's output: remote code returns tuples, Gemma 3n several streams."""
    hidden = output[0] if isinstance(output, tuple) else output
    return hidden[0] if hidden.ndim == 4 else hidden


@contextmanager
def steered_by_hand(layers: Sequence[torch.nn.Module], vectors: torch.Tensor, alpha: float) -> Any:
    """Hooks as written for one experiment: a new tensor, float32 sum, last position."""

    def make(vector: torch.Tensor) -> Any:
        def hook(_m: Any, _a: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            new = hidden.clone()
            residual(new)[:, -1] = (residual(hidden)[:, -1].float() + alpha * vector).to(hidden.dtype)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    hooks = [layer.register_forward_hook(make(v)) for layer, v in zip(layers, vectors, strict=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
