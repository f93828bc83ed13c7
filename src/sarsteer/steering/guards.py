"""Guards at a steered model's entry points: refuse what would not be steered exactly."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from sarsteer.errors import SteeringError
from sarsteer.steering.decoding import check_arguments, check_configuration, check_decoding, signature_of

REFUSED_METHODS = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Methods of transformers' models that pack several requests into one row."""


class GuardedGenerate:
    """``generate`` of a model, and its merge of generation configurations, with refusals of what breaks steering.

    transformers merges the configuration of a call in ``_prepare_generation_config``, a tenth of a millisecond or more.
    So its result is checked there, in place of a second merge before the call.

    Args:
        owner: the model.
        session: a context in which each ``generate`` runs.
        ready: raises if the model is not steered as it was proven.

    """

    def __init__(
        self, owner: Any, session: Callable[[], AbstractContextManager[None]], ready: Callable[[], None]
    ) -> None:
        from transformers import GenerationMixin

        self._owner, self._session, self._ready = owner, session, ready
        self._generate = owner.generate
        self._signature = signature_of(self._generate)
        self._calls = threading.local()  # of this thread: whether the running call's configuration was checked
        # the only generate() that is known to merge before it decodes
        if getattr(self._generate, "__func__", None) is GenerationMixin.generate:
            self._merge: Callable[..., Any] | None = owner._prepare_generation_config
        else:
            self._merge = None

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What replaces the model's methods, by name."""
        replaced = {"generate": self._replacing(self._generate, self._guarded)}
        if self._merge is not None:
            replaced["_prepare_generation_config"] = self._replacing(self._merge, self._checked_merge)
        return replaced

    @staticmethod
    def _replacing(method: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            return replacement(*args, **kwargs)

        return call

    def _guarded(self, *args: Any, **kwargs: Any) -> Any:
        self._ready()
        if self._merge is None:
            check_decoding(self._owner, self._generate, args, kwargs)
            with self._session():
                return self._generate(*args, **kwargs)
        check_arguments(self._signature, args, kwargs)
        outer = vars(self._calls).get("checked")
        self._calls.checked = False
        try:
            with self._session():
                answer = self._generate(*args, **kwargs)
            if not self._calls.checked:
                raise SteeringError(
                    "generate() decoded without its merged configuration, which is then not known to be steered; the "
                    "answer was discarded: use a version of transformers that sarsteer was tested with"
                )
            return answer
        finally:
            self._calls.checked = outer

    def _checked_merge(self, *args: Any, **kwargs: Any) -> Any:
        assert self._merge is not None
        merged = self._merge(*args, **kwargs)
        if getattr(self._calls, "checked", None) is not None:  # within generate()
            check_configuration(merged[0], kwargs)
            self._calls.checked = True
        return merged


def refusing(name: str) -> Callable[..., Any]:
    """A replacement for a method of ``REFUSED_METHODS``."""

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise SteeringError(f"{name}() packs requests so that a forward has many last positions; use generate()")

    return refuse


@dataclass(frozen=True)
class Forward:
    """The inputs of one forward, as far as guards look at them.

    Attributes:
        length: T, the number of new positions.
        cache: the key-value cache, if one is given.
        mask: the attention mask, if one is given.
        position_ids: the position ids, if they are given.

    """

    length: int
    cache: Any
    mask: Any
    position_ids: Any

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forward | None:
        """From the arguments of ``forward``; None if it has no token ids or embeddings."""
        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        if not torch.is_tensor(tokens) or tokens.ndim < 2:
            return None
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        return cls(int(tokens.shape[1]), kwargs.get("past_key_values"), mask, kwargs.get("position_ids"))

    @property
    def past(self) -> int:
        """The number of positions in the cache. A static cache stores it on its device: reading it waits for that."""
        return int(self.cache.get_seq_length()) if hasattr(self.cache, "get_seq_length") else 0


def check_padding(forward: Forward) -> None:
    """Refuse right padding: a padded last position is not a prompt token, and steering it would have no effect."""
    if forward.length < 2:
        return
    length = forward.length + forward.past
    if _last_is_masked(forward.mask, length) or _last_repeats(forward.position_ids, forward.mask):
        raise SteeringError("right-padded input: the last position is padding; set padding_side='left'")


def _last_is_masked(mask: Any, length: int) -> bool:
    """Whether a mask excludes the last of ``length`` positions in any row.

    A 2-D mask has one column per position; a static cache may make it longer. In a 4-D mask the last query must attend
    to its own position: True, or 0 in an additive mask.
    """
    if not torch.is_tensor(mask) or mask.ndim not in (2, 4):
        return False
    column = min(length, mask.shape[-1]) - 1
    if mask.ndim == 2:
        return not bool(mask[:, column].all())
    own = mask[:, 0, -1, column]
    return not bool((own if own.dtype == torch.bool else own == 0).all())


def _last_repeats(position_ids: Any, mask: Any) -> bool:
    """Whether the last position id does not exceed an unmasked one before it, as where padding follows the tokens."""
    if not torch.is_tensor(position_ids) or position_ids.ndim != 2 or position_ids.shape[1] < 2:
        return False
    earlier, last = position_ids[:, :-1], position_ids[:, -1:]
    if bool((earlier < last).all()):  # padding or not: nearly every prompt, in half of the operations
        return False
    if torch.is_tensor(mask) and mask.ndim == 2 and mask.shape[1] == position_ids.shape[1]:
        earlier = earlier.masked_fill(mask[:, :-1] == 0, -1)
    elif bool((earlier.diff(dim=1) <= 0).any()):
        earlier = earlier[:, -1:]  # left padding repeats ids too: without a mask, compare the last two
    return bool((last <= earlier.max(dim=1, keepdim=True).values).any())
