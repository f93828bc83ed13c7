"""Second stage: the language model learns to read the frames, the encoder is trained further.

``python -m training.small.read_speech``. Four losses, all from the first step: the first stage's; the words of the clip
after "Repeat the words."; the distance (KL) of its answer to the clip from the unchanged model's answer to the words;
and the same distance for prompts in text, so that the model stays as its makers aligned it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.small.average import Average
from training.small.clips import Clips
from training.small.hear import Reader, groups
from training.small.network import Hearing, add_lora, save
from training.small.prompts import END, OPENING, closing, repeat_instruction
from training.small.rows import Branch, outputs, pack
from training.small.sentences import read
from training.small.settings import (
    ANSWERS,
    HEARING,
    LANGUAGE_MODEL,
    LOGS,
    READING,
    SEED,
    WORK,
    fast_dtype,
    load_language_model,
)

BATCH, WARMUP, TEXT_EVERY = 8, 10, 3
DECAY = 0.99  # of the average of the weights, a step
ANSWERED = 3  # at most, of the clips of a batch; an answer costs as much as the rest of its clip
# At twice these rates the loss of the repeated words did not fall in 100 steps until the rate did.
RATES = {"projector": 5e-5, "top": 4e-5, "bottom": 2e-5}
LORA_RATE = 6e-4
FRAMES_WEIGHT = 0.5  # of the first stage's loss, which is kept


def kl(student: torch.Tensor, answer: dict[str, Any]) -> torch.Tensor:
    """KL summed over n; ``student`` has its log-probabilities ``[n, TOP]`` of the teacher's TOP tokens."""
    teacher = answer["top_log_probs"].float()
    rest_teacher = (1 - teacher.exp().sum(-1)).clamp(min=1e-4)
    rest_student = (1 - student.exp().sum(-1)).clamp(min=1e-4)
    inner = (teacher.exp() * (teacher - student)).sum(-1)
    return (inner + rest_teacher * (rest_teacher.log() - rest_student.log())).sum()


class Lessons:
    """Turns clips and cached answers into rows and losses."""

    def __init__(self, model: Any, tok: Any, cached: list[dict[str, Any]]) -> None:
        self.model, self.tok = model, tok
        self.table = model.get_input_embeddings().weight
        self.answers = {row["text"]: row for row in cached}
        self.end = tok.convert_tokens_to_ids(END)
        self.opening = self.table[torch.tensor(self.ids(OPENING))]

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tok(text, add_special_tokens=False).input_ids
        return found

    def branch(self, instruction: str, answer: list[int]) -> Branch:
        question = self.ids(closing(instruction))
        return Branch([*question, *answer], len(question))

    def log_probs(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Of ``tokens`` ``[n, k]`` after ``states`` ``[n, D]``; the whole distribution is never kept."""
        logits = torch.nn.functional.linear(states, self.table).float()
        return logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)

    def distance(self, states: list[torch.Tensor], texts: list[str]) -> torch.Tensor:
        """Mean KL a token, of the answers to ``texts``."""
        top = [self.answers[text]["top_tokens"].long() for text in texts]
        each = self.log_probs(torch.cat(states), torch.cat(top)).split([len(row) for row in states])
        total = sum(kl(row, self.answers[text]) for row, text in zip(each, texts, strict=True))
        return total / sum(len(row) for row in states)

    def speech(self, texts: list[str], rows: list[torch.Tensor], rng: random.Random) -> tuple[torch.Tensor, ...]:
        """Losses of repeating ``rows`` of frames ``[T_n, D]``, and of answering those whose text has an answer."""
        branches = [[self.branch(repeat_instruction(rng), [*self.ids(text), self.end])] for text in texts]
        known = [n for n, text in enumerate(texts) if text in self.answers]
        chosen = sorted(rng.sample(known, min(ANSWERED, len(known))))
        for n in chosen:
            answer = self.answers[texts[n]]
            branches[n].append(self.branch(answer["instruction"], answer["tokens"].tolist()))
        packed = pack([torch.cat([self.opening, row.to(self.table.dtype)]) for row in rows], branches, self.table)
        states = outputs(self.model.model, packed)
        words = torch.cat([torch.tensor(row[0].ids[row[0].begin :]) for row in branches])
        repeated = torch.cat([states[n, places[0]] for n, places in enumerate(packed.predictions)])
        repeating = -self.log_probs(repeated, words[:, None]).mean()
        if not chosen:
            return repeating, repeating.new_zeros(())
        answered = [states[n, packed.predictions[n][1]] for n in chosen]
        return repeating, self.distance(answered, [texts[n] for n in chosen])

    def text(self, texts: list[str]) -> torch.Tensor:
        """Distance of the answers to the same prompts in text."""
        branches = []
        for text in texts:
            answer = self.answers[text]
            question = self.ids(text + closing(answer["instruction"]))
            branches.append([Branch([*question, *answer["tokens"].tolist()], len(question))])
        packed = pack([self.opening] * len(texts), branches, self.table)
        states = outputs(self.model.model, packed)
        return self.distance([states[n, places[0]] for n, places in enumerate(packed.predictions)], texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop and save after N minutes; run again to resume")
    parser.add_argument("--sentences", type=Path, default=WORK / "sentences.jsonl")
    parser.add_argument("--log", type=Path, default=LOGS)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    model, tok = load_language_model(LANGUAGE_MODEL, fast_dtype())
    model.requires_grad_(False)
    lora = add_lora(model)
    hearing = Hearing(model.config.to_dict())
    state = torch.load(READING if READING.exists() else HEARING)
    if "lora" not in state:
        state["hearing"] = state.pop("average")
    hearing.load_state_dict(state["hearing"])
    step = state["step"] if "lora" in state else 0
    reader = Reader(tok, model.get_input_embeddings().weight.float())
    reader.log_beta.data = state.get("log_beta", reader.log_beta.data)
    for name, value in state.get("lora", {}).items():
        lora[name].data = value
    learned = {f"hearing.{name}": value for name, value in hearing.state_dict().items()}
    learned |= {f"lora.{name}": parameter.data for name, parameter in lora.items()}
    average = Average(learned, DECAY, state.get("average"))
    lessons = Lessons(model, tok, torch.load(ANSWERS))
    answered = list(lessons.answers)
    parts = groups(hearing)
    for group, peak in zip(parts, RATES.values(), strict=True):
        group["peak"] = peak
    parameters = [*parts, {"params": list(lora.values()), "peak": LORA_RATE}]
    everything = [p for group in parameters for p in group["params"]]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    clips = Clips(read(args.sentences), ["-"], str(LANGUAGE_MODEL), BATCH, 10**7 + step * BATCH)
    clips.natural = True
    began = saved = time.time()
    first = step
    recent: dict[str, list[float]] = {"frames": [], "sequence": [], "repeat": [], "answer": [], "text": []}
    for batch in clips:
        rng = random.Random(SEED + step)
        frames, lengths = hearing([torch.from_numpy(clip.mel).float() for clip in batch])
        rows = [frame[:length] for frame, length in zip(frames, lengths, strict=True)]
        words_loss, distance = lessons.speech([clip.text for clip in batch], rows, rng)
        heard = reader.hear(batch, rows)
        recent["frames"].append(heard.right)
        recent["sequence"].append(heard.sequence)
        recent["repeat"].append(words_loss.item())
        recent["answer"].append(distance.item())
        optimizer.zero_grad(set_to_none=True)
        (words_loss + distance + FRAMES_WEIGHT * heard.loss).backward()
        if step % TEXT_EVERY == 0:
            text_loss = lessons.text(rng.sample(answered, BATCH))
            recent["text"].append(text_loss.item())
            text_loss.backward()
        torch.nn.utils.clip_grad_norm_(everything, 1.0)
        spent = max(step / args.steps, (time.time() - began) / (60 * args.minutes))
        pace = min(1.0, (step - first + 1) / WARMUP) * max(0.05, 1 - spent)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * pace
        optimizer.step()
        average.update()
        step += 1
        elapsed = time.time() - began
        if step % 5 == 0 or step < 3:
            row = {"stage": "read", "step": step, "seconds": round(elapsed)}
            row |= {name: round(float(np.nanmean(values[-10:])), 3) for name, values in recent.items()}
            with args.log.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, flush=True)
        done = step >= args.steps or elapsed > 60 * args.minutes
        if done or time.time() - saved > 150:
            values = {name: parameter.data for name, parameter in lora.items()}
            now = {"hearing": hearing.state_dict(), "lora": values, "average": average.values}
            save(now | {"log_beta": reader.log_beta.data, "step": step}, READING)
            saved = time.time()
        if done:
            break
    clips.close()


if __name__ == "__main__":
    main()
