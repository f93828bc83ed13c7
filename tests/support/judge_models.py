"""Judge models for tests: tiny random models of the real classes, saved and loaded as checkpoints.

Random weights give no verdict, so the output layer is replaced by one that ignores the hidden state and spells a fixed
reply, token by token. The prompt is read from the tokens that reach the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as T
from torch import nn

from sarsteer.judges.local_backend import LocalBackend
from tests.support.tiny import byte_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>judge: {% endif %}"
)
TYPED = TEMPLATE.replace("m['content']", "m['content'][0]['text']")


def checkpoint(folder: Path, kind: str = "Mistral", template: str | None = TEMPLATE, window: int = 2048) -> Path:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = getattr(T, f"{kind}Config")(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    getattr(T, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Spelling(nn.Module):
    """An output layer that spells a text, whatever the hidden state: one text for each prompt that holds a word."""

    def __init__(self, backend: LocalBackend, replies: dict[str, str]) -> None:
        super().__init__()
        self.tokenizer, self.replies = backend._tokenizer, replies
        self.prompts: list[str] = []
        self.batches: list[torch.Tensor] = []
        self.step = 0
        backend._model.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"]
        if ids.shape[1] == 1:
            self.step += 1
            return
        self.step = 0
        mask = kwargs.get("attention_mask")  # transformers leaves out one that masks nothing
        self.batches.append(torch.ones_like(ids) if mask is None else mask.clone())
        texts = [self.tokenizer.decode(row[mask.bool()]) for row, mask in zip(ids, self.batches[-1], strict=True)]
        self.prompts += texts
        chosen = [next(reply for word, reply in self.replies.items() if word in text) for text in texts]
        self.spelt = [[*self.tokenizer(reply)["input_ids"], self.tokenizer.eos_token_id] for reply in chosen]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = hidden.new_full((*hidden.shape[:2], len(self.tokenizer)), -10.0)
        for row, ids in enumerate(self.spelt):
            logits[row, -1, ids[min(self.step, len(ids) - 1)]] = 10.0
        return logits
