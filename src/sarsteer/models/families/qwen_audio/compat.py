"""Run Qwen-Audio's code, written for transformers 4.32, on transformers 5.

The code is used as published. Subclasses of its classes, created on loading, adapt it; other models are unchanged:

- ``PreTrainedModel`` no longer has ``get_head_mask``, and no longer extends ``GenerationMixin``.
- Its key-value cache is a tuple of ``[B, T, heads, d]`` pairs, generation's is a ``DynamicCache`` of
  ``[B, heads, T, d]``: converted before and after the decoder. An empty ``DynamicCache`` is true, which its
  ``prepare_inputs_for_generation`` takes to mean that the prompt was read already.
- transformers 5 builds on the meta device and calls ``_init_weights`` for buffers that are not stored in checkpoints.
  The remote one does not initialize them: the log-n attention scale holds uninitialized memory. Worse, it draws every
  attention's output projection again although it was loaded: the model then answers noise.
- It imports ``transformers_stream_generator``, which cannot be imported with transformers 5; a placeholder replaces it
  while the code is loaded. Only ``chat_stream``, which nothing here calls, needs it.
- It encodes several clips together, and the padding of one changes the end of another. Here each is encoded separately,
  so that an answer does not depend on the batch.
"""

from __future__ import annotations

import functools
import math
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sarsteer.errors import ModelError

_UNUSABLE_IMPORT = "transformers_stream_generator"
_LOGN_POSITIONS = 32_768


def adapted(remote: Any) -> Any:
    """A subclass of the remote ``QWenLMHeadModel`` that runs on transformers 5, under the same name."""
    from transformers import GenerationMixin

    return _subclass(remote, _Head, GenerationMixin)


def _make_subclass(remote: Any, *bases: Any) -> Any:
    first, *more = bases
    return type(remote.__name__, (first, remote, *more), {"__module__": __name__, "remote": remote})


_subclass: Any = functools.cache(_make_subclass)  # one subclass per class, so that equal types compare equal


@contextmanager
def importable() -> Iterator[None]:
    """A context in which the remote code can be imported: a placeholder replaces a package that it does not need."""
    before = sys.modules.get(_UNUSABLE_IMPORT)
    sys.modules[_UNUSABLE_IMPORT] = types.ModuleType(_UNUSABLE_IMPORT)
    try:
        yield
    finally:
        del sys.modules[_UNUSABLE_IMPORT]
        if before is not None:
            sys.modules[_UNUSABLE_IMPORT] = before


class _Base:
    """``_init_weights`` for the model and its decoder; transformers calls both."""

    remote: type
    config: Any

    def _init_weights(self, module: Any) -> None:
        """Compute the buffers that are not stored in checkpoints; missing weights are refused after loading."""
        for name in sorted(module._non_persistent_buffers_set):
            if name not in _BUFFERS:
                raise ModelError(f"Qwen-Audio: its code has an unknown buffer {name!r}; use the published code")
            buffer = module._buffers[name]
            module._buffers[name] = _BUFFERS[name](module).to(buffer.device, buffer.dtype)


class _Head(_Base):
    """Precedes ``QWenLMHeadModel`` in the subclass."""

    transformer: Any

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)  # type: ignore[call-arg]
        decoder: Any = self.transformer
        decoder.__class__ = _subclass(type(decoder), _Decoder)
        decoder.audio.__class__ = _subclass(type(decoder.audio), _Encoder)

    def generate(self, *args: Any, **options: Any) -> Any:
        """Transformers' generation; the remote one, which ``chat()`` calls, only with stop words."""
        from transformers import GenerationMixin

        if options.get("stop_words_ids") is not None:
            parent: Any = super()
            return parent.generate(*args, **options)
        generate: Any = GenerationMixin.generate
        return generate(self, *args, **options)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: Any = None,
        attention_mask: torch.Tensor | None = None,
        audio_info: dict[str, Any] | None = None,
        use_cache: bool | None = None,
        **_kwargs: Any,
    ) -> dict[str, Any]:
        """The decoder's inputs, without positions: it counts by index, and attention is relative."""
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        return {
            "input_ids": input_ids[:, seen:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "audio_info": None if seen else audio_info,
            "use_cache": use_cache,
        }

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Beams and several answers repeat rows, and each row's clips with it."""
        info = kwargs.get("audio_info")
        if expand_size > 1 and info is not None and input_ids is not None:
            rows = clips_of_rows(input_ids, self.config)
            kwargs["audio_info"] = chosen_clips(info, [clip for row in rows for clip in row * expand_size])
        parent: Any = super()
        return parent._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)

    @staticmethod
    def _reorder_cache(past_key_values: Any, beam_idx: torch.Tensor) -> Any:
        past_key_values.reorder_cache(beam_idx)
        return past_key_values


class _Decoder(_Base):
    """Precedes ``QWenModel`` in the subclass."""

    def get_head_mask(self, _head_mask: Any, layers: int) -> list[None]:
        """No head is masked."""
        return [None] * layers

    def forward(self, input_ids: torch.Tensor | None = None, past_key_values: Any = None, **options: Any) -> Any:
        """The remote forward, with its cache converted."""
        from transformers import DynamicCache

        if options.get("return_dict") is None:
            options["return_dict"] = True
        cache = DynamicCache() if past_key_values is None else past_key_values
        past = _as_tuples(cache)
        if input_ids is None:
            raise ModelError("Qwen-Audio does not take inputs_embeds; pass input_ids")
        if past is not None and input_ids.shape[1] > 1 and any(clips_of_rows(input_ids, self.config)):
            raise ModelError("Qwen-Audio encodes clips only in a prompt's first forward; pass the whole prompt at once")
        parent: Any = super()
        out = parent.forward(input_ids, past_key_values=past, **options)
        if out.past_key_values is not None:
            _store(cache, out.past_key_values)
            out.past_key_values = cache
        return out


class _Encoder:
    """Precedes ``AudioEncoder`` in the subclass."""

    def encode(self, input_audios: Any, input_audio_lengths: Any, audio_span_tokens: list[int]) -> list[torch.Tensor]:
        """Each clip's embeddings, encoded separately; a list contains clips that were encoded before."""
        if not torch.is_tensor(input_audios):
            return list(input_audios)
        parent: Any = super()
        embeddings: list[torch.Tensor] = []
        for mel, lengths, span in zip(input_audios, input_audio_lengths, audio_span_tokens, strict=True):
            embeddings += parent.encode(mel[None], lengths[None], [span])
        return embeddings


def clips_of_rows(input_ids: torch.Tensor, config: Any) -> list[list[int]]:
    """The clips of each row, numbered through the batch."""
    counts = (input_ids == config.audio["audio_start_id"]).sum(-1).tolist()
    rows, taken = [], 0
    for count in counts:
        rows.append(list(range(taken, taken + count)))
        taken += count
    return rows


def chosen_clips(info: dict[str, Any], clips: list[int]) -> dict[str, Any]:
    """``info`` of these clips, in this order."""
    return {
        key: value[clips] if torch.is_tensor(value) else value and [value[clip] for clip in clips]
        for key, value in info.items()
    }


def _as_tuples(cache: Any) -> tuple[tuple[torch.Tensor, torch.Tensor], ...] | None:
    """``[B, T, heads, d]`` keys and values per layer, as views; None for an empty cache."""
    from transformers.cache_utils import DynamicLayer

    if getattr(cache, "offloading", False) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        raise ModelError("Qwen-Audio needs a dynamic cache; leave out cache_implementation")
    if not cache.get_seq_length():
        return None
    return tuple((layer.keys.transpose(1, 2), layer.values.transpose(1, 2)) for layer in cache.layers)


def _store(cache: Any, presents: Any) -> None:
    """Store the whole keys and values, which the remote code returns, in ``cache``."""
    for index, (keys, values) in enumerate(presents):
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        if index < len(cache.layers) and cache.layers[index].is_initialized:
            cache.layers[index].keys, cache.layers[index].values = keys, values
        else:
            cache.update(keys, values, index)


def _logn(attention: Any) -> torch.Tensor:
    """The scale of queries beyond the trained length: the logarithm of the position to the base of that length."""
    trained = attention.seq_length
    scale = [math.log(n, trained) if n > trained else 1.0 for n in range(1, _LOGN_POSITIONS)]
    return torch.tensor(scale, dtype=torch.float64)[None, :, None, None]


def _inverse_frequencies(rotary: Any) -> torch.Tensor:
    even = torch.arange(0, rotary.dim, 2, dtype=torch.float32)
    return torch.pow(float(rotary.base), -even / rotary.dim)


_BUFFERS: dict[str, Any] = {
    "inv_freq": _inverse_frequencies,
    "logn_tensor": _logn,
    "masked_bias": lambda _attention: torch.tensor(-1e4),
}
