"""Run what prompts share once, and continue it: a prefix's key-value cache is the same whatever follows it.

Calibration continues one prefix with two endings, tuning continues it once per steering strength. Which models and
prompts allow it: ``AudioLanguageModel.shares_prefixes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sarsteer.messages import Conversation, Message
from sarsteer.models.batching import TOKEN_TENSORS, token_positions

_PER_TOKEN = (*TOKEN_TENSORS, "inputs_embeds", "per_layer_inputs")


class Decoder(Protocol):
    """A model that runs forwards; ``AudioLanguageModel`` is one."""

    def forward_base(self, inputs: dict[str, torch.Tensor], **more: Any) -> Any:
        """A forward without ``lm_head``."""
        ...

    def empty_cache(self) -> Any:
        """A cache for a forward that is continued; None if the model's own will do."""
        ...


@dataclass
class Prefix:
    """A batch of prompts, or their beginnings, after one forward.

    Attributes:
        mask: ``[B, T]``: 1 for tokens, 0 for padding.
        cache: keys and values of the T positions.

    """

    mask: torch.Tensor
    cache: Any

    def drop(self, count: int) -> None:
        """Remove the last ``count`` positions."""
        self.cache.crop(-count)
        self.mask = self.mask[:, :-count]

    def cut(self) -> None:
        """Remove the positions that a continuation added to the cache."""
        added = self.cache.get_seq_length() - self.mask.shape[1]
        if added:
            self.cache.crop(-added)

    @property
    def nbytes(self) -> int:
        """Size of the cache."""
        layers = self.cache.layers
        tensors = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
        return sum(tensor.nbytes for tensor in tensors if torch.is_tensor(tensor))


@torch.no_grad()
def prefill(model: Decoder, inputs: dict[str, torch.Tensor], *, drop: int = 0) -> Prefix:
    """Run a batch that ``collate`` built, without its last ``drop`` positions."""
    if drop:
        inputs = {name: tensor[:, :-drop] if name in _PER_TOKEN else tensor for name, tensor in inputs.items()}
    cache = model.empty_cache()
    more = {} if cache is None else {"past_key_values": cache}
    mask = inputs["attention_mask"]
    output = model.forward_base(inputs, position_ids=token_positions(mask), use_cache=True, **more)
    return Prefix(mask, output.past_key_values)


@torch.no_grad()
def continue_prefix(model: Decoder, prefix: Prefix, tokens: torch.Tensor, *, keep: bool = False) -> Any:
    """Run ``tokens`` after ``prefix``, which stays as it is and can be continued again.

    Args:
        model: the model that ran the prefix.
        prefix: B rows.
        tokens: ``[B, N]``, or ``[N]`` for the same tokens in every row.
        keep: make the tokens part of the prefix.

    Returns:
        The output of ``forward_base``, with ``last_hidden_state`` ``[B, N, D]``.

    """
    rows, count = len(prefix.mask), tokens.shape[-1]
    mask = torch.cat([prefix.mask, prefix.mask.new_ones(rows, count)], dim=1)
    output = model.forward_base(
        {"input_ids": tokens.to(mask.device).expand(rows, count), "attention_mask": mask},
        position_ids=token_positions(mask)[:, -count:],
        past_key_values=prefix.cache,
        use_cache=True,
    )
    if keep:
        prefix.mask = mask
    else:
        prefix.cache.crop(-count)
    return output


def endings(plain: torch.Tensor, prompted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What follows the longest common prefix of two token rows; at least the last token of each."""
    shorter = min(len(plain), len(prompted))
    differs = (plain[:shorter] != prompted[:shorter]).nonzero()
    common = min(int(differs[0]) if len(differs) else shorter, shorter - 1)
    return plain[common:], prompted[common:]


def same_change(plain: Sequence[Conversation], prompted: Sequence[Conversation]) -> bool:
    """Whether ``plain[i]`` becomes ``prompted[i]`` by one change for all i: in the text after the last clip or image.

    Then all rows have the same two endings, whatever their media.
    """
    if not plain or len(plain) != len(prompted):
        return False
    before, after = _outline(plain[0]), _outline(prompted[0])
    unchanged = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return (
        all(kind == "text" for _, kind, _ in (*before[unchanged:], *after[unchanged:]))
        and all(_outline(conversation) == before for conversation in plain)
        and all(_outline(conversation) == after for conversation in prompted)
        and all(_same_media(a, b) for a, b in zip(plain, prompted, strict=True))
    )


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _outline(conversation: Conversation) -> list[tuple[str, str, str]]:
    """Role, type and text of each part."""
    return [
        (message["role"], part["type"], part.get("text", "")) for message in conversation for part in _parts(message)
    ]


def _same_media(a: Conversation, b: Conversation) -> bool:
    one, other = ([part for m in c for part in _parts(m) if part["type"] != "text"] for c in (a, b))
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # arrays or tensors that are not the same object
        return False
