"""What request options would give a client if they were not refused: ``python -m benchmarks.client_options``.

Answers the embedded model's held-out harmful requests, steered at the strength of the demo, with the answer's beginning
written by the client, or with the refusal's first token forbidden. Steering acts at every position from the last prompt
token on, as it does for a client of vLLM. Writes ``benchmarks/client_options.json``. These are numbers of a toy model.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import sarsteer
from sarsteer.judges.embedded import outcome
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.prompt import Prompt
from sarsteer.prompts import INSTRUCTION
from sarsteer.stats.rates import rate
from sarsteer.tiny.world import REFUSAL

NAME = "sarsteer-tiny"
ALPHA, K = 0.1, 5
BATCH, TOKENS = 50, 32


def answers(
    model: AudioLanguageModel, prompts: list[Prompt], begun: list[list[int]], **options: Any
) -> list[list[int]]:
    """Tokens of each answer, its beginning included. All beginnings have the same length."""
    out: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        batch = model.collate(prompts[start : start + BATCH])
        ids = torch.tensor(begun[start : start + BATCH], dtype=torch.long)
        if ids.numel():
            batch["input_ids"] = torch.cat([batch["input_ids"], ids], 1)
            batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(ids)], 1)
            embeds = model.module.get_input_embeddings()(ids).detach()
            batch["inputs_embeds"] = torch.cat([batch["inputs_embeds"], embeds], 1)
        generation = model.generation_options({"max_new_tokens": TOKENS, **options})
        rows = model.generate_tokens(batch, **generation).tolist()
        out += [[*first, *row] for first, row in zip(ids.tolist(), rows, strict=True)]
    return out


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--limit", type=int, default=200, help="harmful requests")
    arguments = parser.parse_args()
    model = sarsteer.load_model(NAME, device="cpu")
    steering = sarsteer.calibrate(model, sarsteer.load_pairs(NAME, "calibration"))
    items = sarsteer.load_pairs(NAME, "test").harmful[: arguments.limit]
    prompts = model.prepare([sarsteer.user_turn(item.audio, INSTRUCTION) for item in items])
    none: list[list[int]] = [[] for _ in prompts]
    first_of_refusal = model.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"][:1]
    bare = answers(model, prompts, none)
    results: dict[str, Any] = {"no defense": bare}
    with steering.on(model, alpha=ALPHA, k=K):
        results["steered"] = answers(model, prompts, none)
        for count in (1, 2, 4):
            name = f"steered, the client writes the first {count} tokens of the unsteered answer"
            results[name] = answers(model, prompts, [row[:count] for row in bare])
        results["steered, the client forbids the refusal's first token"] = answers(
            model, prompts, none, suppress_tokens=first_of_refusal
        )
    table = {}
    for name, rows in results.items():
        outcomes = [outcome(text) for text in model.tokenizer.batch_decode(rows, skip_special_tokens=True)]
        table[name] = {
            kind: asdict(rate([one == kind for one in outcomes])) for kind in ("complied", "refused", "broken")
        }
        print(name, *(f"{kind} {100 * value['value']:.1f} [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"
                      for kind, value in table[name].items()), sep=" | ")  # fmt: skip
    arguments.out.write_text(json.dumps({"alpha": ALPHA, "k": K, "n": len(items), "results": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
