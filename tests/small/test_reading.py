"""The second stage's losses, on a tiny language model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from sarsteer.small.language_model import from_gguf
from tests.small.parts import write_gguf
from training.small.decode import answers
from training.small.network import add_lora
from training.small.prompts import OPENING, closing
from training.small.read_speech import Lessons

TEXTS = ["the hen sings", "a very much longer text"]


@pytest.fixture
def lessons(tmp_path: Path) -> tuple[Lessons, dict[str, torch.nn.Parameter]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    write_gguf(tmp_path / "model.gguf")
    text = from_gguf(tmp_path / "model.gguf", "test")
    sizes = {**text.config, "max_position_embeddings": 1024, "tie_word_embeddings": True}
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes)).eval().requires_grad_(False)
    model.model.load_state_dict(text.weights)
    model.tie_weights()
    instructions = ["", "Answer."]
    prompts = [t + closing(i) for t, i in zip(TEXTS, instructions, strict=True)]
    found = answers(model, text.tokenizer, OPENING, prompts, 5)
    cached = [
        {"text": t, "instruction": i, "tokens": a.tokens, "top_tokens": a.top_tokens, "top_log_probs": a.top_log_probs}
        for t, i, a in zip(TEXTS, instructions, found, strict=True)
    ]
    lora = add_lora(model)
    return Lessons(model, text.tokenizer, cached), lora


def test_cached_answers_are_the_models_own(lessons: tuple[Lessons, dict[str, torch.nn.Parameter]]) -> None:
    taught, _ = lessons
    text = TEXTS[1]
    answer = taught.answers[text]
    prompt = OPENING + text + closing(answer["instruction"])
    ids = torch.tensor([[*taught.ids(prompt), *answer["tokens"].tolist()]])
    with torch.no_grad():
        logits = taught.model(ids).logits[0, -len(answer["tokens"]) - 1 : -1]
    assert logits.argmax(-1).tolist() == answer["tokens"].tolist()


def test_the_unchanged_model_is_at_no_distance_from_itself(
    lessons: tuple[Lessons, dict[str, torch.nn.Parameter]],
) -> None:
    taught, _ = lessons
    with torch.no_grad():
        assert taught.text(TEXTS).item() == pytest.approx(0.0, abs=1e-4)
        rows = [taught.table[torch.tensor(taught.ids(text))] for text in TEXTS]  # perfectly heard
        _, distance = taught.speech(TEXTS, rows, random.Random(0))
    assert distance.item() == pytest.approx(0.0, abs=1e-4)


def test_every_loss_teaches_the_update(lessons: tuple[Lessons, dict[str, torch.nn.Parameter]]) -> None:
    taught, lora = lessons
    for name, parameter in lora.items():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.05)
    rows = [torch.randn(9, taught.table.shape[1], requires_grad=True) for _ in TEXTS]
    words, distance = taught.speech(TEXTS, rows, random.Random(0))
    for loss in (words, distance, taught.text(TEXTS)):
        for parameter in lora.values():
            parameter.grad = None
        loss.backward(retain_graph=True)
        taught_by_it = [name for name, parameter in lora.items() if parameter.grad is not None and parameter.grad.any()]
        assert taught_by_it == list(lora)
    assert all(row.grad is not None for row in rows)
