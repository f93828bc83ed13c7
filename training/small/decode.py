"""Greedy answers with the distribution behind each token, in batches that share their first tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from training.small.prompts import END

TOP = 16


@dataclass(frozen=True)
class Answer:
    """Greedy tokens ``[n]``, ending with the end of the turn if it was reached; the TOP likeliest tokens at each."""

    tokens: torch.Tensor
    top_tokens: torch.Tensor  # [n, TOP]
    top_log_probs: torch.Tensor  # [n, TOP]


@torch.inference_mode()
def answers(model: Any, tok: Any, opening: str, prompts: list[str], length: int) -> list[Answer]:
    """Answers of at most ``length`` tokens to each ``opening + prompt``."""
    prefix = tok(opening, return_tensors="pt", add_special_tokens=False).input_ids
    rows = [tok(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), tok.pad_token_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    cache = model(prefix, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(rows))
    mask = torch.cat([torch.ones(len(rows), prefix.shape[1], dtype=torch.long), mask], 1)
    position = (mask.cumsum(1) - 1)[:, prefix.shape[1] :]
    end = tok.convert_tokens_to_ids(END)
    found: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in rows]
    alive = list(range(len(rows)))
    for _ in range(length):
        logits = model(ids, attention_mask=mask, position_ids=position, past_key_values=cache, logits_to_keep=1).logits[
            :, -1
        ]
        best = logits.float().log_softmax(-1).topk(TOP)
        for number, tokens, log_probs in zip(alive, best.indices, best.values, strict=True):
            found[number].append((tokens, log_probs))
        ids = best.indices[:, :1]
        keep = (ids[:, 0] != end).nonzero()[:, 0]
        if not len(keep):
            break
        if len(keep) < len(alive):
            cache.batch_select_indices(keep)
            ids, mask, position, alive = ids[keep], mask[keep], position[keep], [alive[i] for i in keep.tolist()]
        mask = torch.cat([mask, torch.ones(len(alive), 1, dtype=torch.long)], 1)
        position = position[:, -1:] + 1
    result = []
    for steps in found:
        tokens = torch.stack([tokens for tokens, _ in steps])
        result.append(Answer(tokens[:, 0], tokens, torch.stack([log_probs for _, log_probs in steps])))
    return result
