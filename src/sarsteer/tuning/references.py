"""The model's unsteered answers to the tuning requests, and those with the refusal prompt; stored, and resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sarsteer.data.manifest import place_errors
from sarsteer.data.pairs import Pairs
from sarsteer.errors import TuningError
from sarsteer.files import write_text
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.prompt import Prompt

Report = Callable[[str, int, int], None]
"""Called with a stage, the number of steps done, and of all steps."""


@dataclass(frozen=True)
class Requests:
    """The tuning pairs as prepared prompts: harmful, safe, and harmful with the refusal prompt."""

    harmful: list[Prompt]
    safe: list[Prompt]
    prompted: list[Prompt]


@dataclass(frozen=True)
class ReferenceAnswers:
    """Answers to some requests, as text and as tokens."""

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class References:
    """Undefended answers to harmful and safe requests, and to harmful ones with the refusal prompt."""

    harmful: ReferenceAnswers
    safe: ReferenceAnswers
    prompted: ReferenceAnswers


def prepare_requests(
    model: AudioLanguageModel, pairs: Pairs, instruction: str, refusal_prompt: str, batch_size: int, report: Report
) -> Requests:
    """Prompts of the tuning pairs; each clip is encoded once, if the family encodes clips separately."""
    harmful, safe = pairs.harmful, pairs.safe
    requests = [(item, instruction) for item in (*harmful, *safe)]
    requests += [(item, instruction + refusal_prompt) for item in harmful]
    prompts: list[Prompt] = []
    for start in range(0, len(requests), batch_size):
        report("Preparing the tuning requests", start, len(requests))
        for text in (instruction, instruction + refusal_prompt):
            rows = [item for item, with_text in requests[start : start + batch_size] if with_text == text]
            with place_errors(rows):
                prompts += model.prepare([item.turn(text) for item in rows])
    report("Preparing the tuning requests", len(requests), len(requests))
    n = len(pairs)
    return Requests(prompts[:n], prompts[n : 2 * n], prompts[2 * n :])


def answer_all(
    model: AudioLanguageModel,
    requests: Requests,
    max_new_tokens: int,
    batch_size: int,
    report: Report,
    path: Path | None = None,
) -> References:
    """The references. They are stored in ``path``; those that are already there are not generated again.

    Raises:
        TuningError: the file is damaged.

    """
    done = {} if path is None else _load(path)
    names = ("harmful", "safe", "prompted")
    for index, name in enumerate(names):
        report("Answering undefended", index, len(names))
        if name in done:
            continue
        done[name] = answer(model, getattr(requests, name), max_new_tokens, batch_size)
        if path is not None:
            write_text(path, json.dumps({key: asdict(answers) for key, answers in done.items()}, ensure_ascii=False))
    report("Answering undefended", len(names), len(names))
    return References(**done)


def answer(
    model: AudioLanguageModel, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int
) -> ReferenceAnswers:
    """Greedy answers with their tokens, up to and including the end token."""
    ends = _end_tokens(model)
    texts: dict[int, str] = {}
    tokens: dict[int, tuple[int, ...]] = {}
    options = model.generation_options({"max_new_tokens": max_new_tokens})
    for rows in model.batches(list(prompts), batch_size):
        with torch.no_grad():
            generated = model.generate_tokens(model.collate([prompts[i] for i in rows]), **options)
        for i, row, text in zip(rows, generated.tolist(), model.decode(generated), strict=True):
            stop = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
            texts[i], tokens[i] = text.strip(), tuple(row[: stop + 1])
    order = range(len(prompts))
    return ReferenceAnswers(tuple(texts[i] for i in order), tuple(tokens[i] for i in order))


def _end_tokens(model: AudioLanguageModel) -> set[int]:
    from sarsteer.models.layers import generating_part, unwrap

    config: Any = getattr(unwrap(generating_part(model.module)), "generation_config", None)
    end = getattr(config, "eos_token_id", None)
    return set() if end is None else {int(e) for e in (end if isinstance(end, (list, tuple)) else [end])}


def _load(path: Path) -> dict[str, ReferenceAnswers]:
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: ReferenceAnswers(tuple(stored["texts"]), tuple(tuple(map(int, row)) for row in stored["tokens"]))
            for name, stored in data.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise TuningError("is damaged; delete it, and its answers are generated again", place=str(path)) from None
