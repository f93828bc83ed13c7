"""Cache what the unchanged language model answers to each sentence in text: ``python -m training.small.answers``."""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch

from training.small.decode import answers
from training.small.network import save
from training.small.prompts import OPENING, answer_instruction, closing
from training.small.sentences import read
from training.small.settings import ANSWERS, LANGUAGE_MODEL, WORK, fast_dtype, load_language_model

BATCH, LENGTH = 96, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="sentences to answer")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this many minutes; run again to resume")
    parser.add_argument("--sentences", type=Path, default=WORK / "sentences.jsonl")
    args = parser.parse_args()
    done: list[dict[str, Any]] = torch.load(ANSWERS) if ANSWERS.exists() else []
    texts = read(args.sentences)
    # no part of the vocabulary comes first: the order is shuffled once and for all
    random.Random(0).shuffle(texts)
    have = {row["text"] for row in done}
    texts = [text for text in texts if text not in have][: max(0, args.count - len(done))]
    model, tok = load_language_model(LANGUAGE_MODEL, fast_dtype())
    began = time.time()
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        instructions = [answer_instruction(random.Random(text)) for text in batch]
        prompts = [text + closing(instruction) for text, instruction in zip(batch, instructions, strict=True)]
        for text, instruction, answer in zip(
            batch, instructions, answers(model, tok, OPENING, prompts, LENGTH), strict=True
        ):
            done.append(
                {
                    "text": text,
                    "instruction": instruction,
                    "tokens": answer.tokens.int(),
                    "top_tokens": answer.top_tokens.int(),
                    "top_log_probs": answer.top_log_probs.half(),
                }
            )
        save(done, ANSWERS)
        print(f"{len(done)} answers, {time.time() - began:.0f} s | {batch[-1]} -> {tok.decode(done[-1]['tokens'])}")
        if time.time() - began > 60 * args.minutes:
            break


if __name__ == "__main__":
    main()
