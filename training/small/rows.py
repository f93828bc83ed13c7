"""Training rows for the language model: one clip, heard once, followed by several questions about it.

A row is ``prefix | branch | branch``: the branches see the prefix and themselves, not each other, and take the
positions that follow the prefix. This costs half of what one row for each question would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Branch:
    """Token ids ``[n]`` after the prefix; the model predicts those from ``begin`` on."""

    ids: list[int]
    begin: int


@dataclass(frozen=True)
class Packed:
    """Inputs of one forward pass over N rows, and where the predictions are."""

    embeddings: torch.Tensor  # [N, S, D]
    mask: torch.Tensor  # [N, 1, S, S], True where attention is allowed
    positions: torch.Tensor  # [N, S]
    predictions: list[list[torch.Tensor]]  # for each row and branch the S-indices whose outputs predict its tokens


def pack(prefixes: list[torch.Tensor], branches: list[list[Branch]], table: torch.Tensor) -> Packed:
    """Rows of prefixes ``[P_n, D]`` with their branches; ``table`` is the embedding matrix ``[V, D]``."""
    sizes = [len(p) + sum(len(b.ids) for b in row) for p, row in zip(prefixes, branches, strict=True)]
    width = max(sizes)
    embeddings = table.new_zeros(len(prefixes), width, table.shape[1])
    allowed = torch.zeros(len(prefixes), 1, width, width, dtype=torch.bool)
    positions = torch.zeros(len(prefixes), width, dtype=torch.long)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    predictions = []
    filled = []
    for n, (prefix, row) in enumerate(zip(prefixes, branches, strict=True)):
        first = len(prefix)
        pieces = [prefix]
        allowed[n, 0, :, :first] = causal[:, :first]
        positions[n, :first] = torch.arange(first)
        places = []
        at = first
        for branch in row:
            end = at + len(branch.ids)
            pieces.append(table[torch.tensor(branch.ids)])
            allowed[n, 0, at:end, at:end] = causal[: end - at, : end - at]
            positions[n, at:end] = torch.arange(first, first + end - at)
            places.append(torch.arange(at + branch.begin - 1, end - 1))
            at = end
        for padding in range(at, width):
            allowed[n, 0, padding, padding] = True  # a row of the mask must not be empty
        filled.append(torch.nn.functional.pad(torch.cat(pieces), (0, 0, 0, width - at)))
        predictions.append(places)
    embeddings = torch.stack(filled)
    return Packed(embeddings, allowed, positions, predictions)


def outputs(model: torch.nn.Module, packed: Packed) -> torch.Tensor:
    """The language model's final states ``[N, S, D]``; ``model`` is the part without its head."""
    states: torch.Tensor = model(
        inputs_embeds=packed.embeddings,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    return states
