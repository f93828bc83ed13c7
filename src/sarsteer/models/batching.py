"""Join rows that were processed one by one into a left-padded batch.

Rows are processed separately so that the encoding of a clip does not depend on its batch: several processors pad clips
with features of silence, which their encoders do not mask at the edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Inputs = dict[str, torch.Tensor]

TOKEN_TENSORS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Tensors with one value per token ``[1, T]``, padded on the left; the others are media, padded at the end."""


def media_tensors(row: Inputs) -> list[str]:
    """The names of a row's media."""
    return [name for name in row if name not in TOKEN_TENSORS]


def left_padded(rows: Sequence[torch.Tensor], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows ``[T]`` of any lengths as ``input_ids`` and ``attention_mask``, each ``[B, longest]``."""
    merged = merge_rows(
        [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in rows], pad_token_id
    )
    return merged["input_ids"], merged["attention_mask"]


def token_positions(mask: torch.Tensor) -> torch.Tensor:
    """The position of each token in its row, ``[B, T]``, counted from the row's first token as ``generate`` does."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def merge_rows(rows: Sequence[Inputs], pad_token_id: int) -> Inputs:
    """One batch of ``rows``, each with ``input_ids`` ``[1, T]`` and the tensors of its media, if it has any.

    Media are joined along their first dimension, in the order of the rows. Shorter ones are padded with zeros, which
    their masks exclude.
    """
    longest = max(row["input_ids"].shape[1] for row in rows)
    merged: Inputs = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        tensors = [row[name] for row in rows if name in row]
        if name in TOKEN_TENSORS:
            value = pad_token_id if name == "input_ids" else 0
            merged[name] = torch.cat([_pad_left(tensor, longest, value) for tensor in tensors])
        elif tensors[0].ndim == 0:
            merged[name] = torch.stack(tensors)
        else:
            sizes = [max(tensor.shape[d] for tensor in tensors) for d in range(1, tensors[0].ndim)]
            merged[name] = torch.cat([_pad_end(tensor, sizes) for tensor in tensors])
    return merged


def media_shapes(row: Inputs) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The shapes of a row's media, without their count."""
    return tuple(sorted((name, tuple(tensor.shape[1:])) for name, tensor in row.items() if name not in TOKEN_TENSORS))


def _pad_left(tensor: torch.Tensor, length: int, value: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (length - tensor.shape[1], 0), value=value)


def _pad_end(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """``tensor`` with its dimensions after the first padded to ``sizes``."""
    if list(tensor.shape[1:]) == list(sizes):
        return tensor
    padded = tensor.new_zeros((tensor.shape[0], *sizes))
    padded[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return padded
