"""First stage: each audio frame learns to become the embedding of the token spoken in it: ``-m training.small.hear``.

The language model takes no part. A frame's output ``x`` is classified by its distance to the embeddings of all pieces
and of the space: softmax over ``-beta/2 |x - E_v|^2``. Two losses: each frame's label, where the times of the words are
known, which teaches fast; and CTC with the space as the blank, which needs no times.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.small.average import Average
from training.small.clips import Clips, TrainingClip
from training.small.frames import MERGES, pieces, word_tokens
from training.small.network import Hearing, save
from training.small.openers import NAMES, vocabulary
from training.small.sentences import read
from training.small.settings import HEARING, LANGUAGE_MODEL, LOGS, SEED, WORK, load_language_model
from training.small.whisper import load_into

BATCH, WARMUP = 12, 50
DECAY = 0.995  # of the average of the weights, a step
RATES = {"projector": 4e-4, "top": 3e-4, "bottom": 1.5e-4}
WORD_SHARE = 0.15  # of the clips are words in no order
# The frame labels teach fast, but a piece is recognized best where the model places it itself, and the labels make it
# stutter ("how how do do I"). So they give way to CTC, at a lower learning rate. At the first rate CTC stopped at 1.6 a
# piece; at the lower one it fell to 1.0 within 200 steps.


@dataclass(frozen=True)
class Mix:
    """Weights of the losses; CTC has what the frame labels leave of 1."""

    labels: float
    anchor: float  # of the squared distance to the right embedding
    rate: float  # share of the peak learning rates


MIXES = {0: Mix(0.5, 0.025, 1.0), 1600: Mix(0.15, 0.025, 0.4), 3400: Mix(0.03, 0.005, 0.4)}
LAST_MIX = MIXES[max(MIXES)]


def mix(step: int) -> Mix:
    """The weights at ``step``."""
    return MIXES[max(first for first in MIXES if first <= step)]


def groups(hearing: Hearing) -> list[dict[str, Any]]:
    """The optimizer's parameter groups, each with its peak learning rate as ``peak``."""
    parts: dict[str, list[torch.nn.Parameter]] = {name: [] for name in RATES}
    for name, parameter in hearing.named_parameters():
        if "embed_positions" in name:
            parameter.requires_grad_(False)
            continue
        layer = int(name.split("layers.")[1].split(".")[0]) if "layers." in name else None
        top = "audio_tower.layer_norm" in name or (layer is not None and layer >= 3)
        parts["projector" if "projector" in name else "top" if top else "bottom"].append(parameter)
    return [{"params": parts[name], "peak": peak} for name, peak in RATES.items()]


@dataclass(frozen=True)
class Heard:
    """The loss of a batch of frames, and how well they are recognized."""

    loss: torch.Tensor
    sequence: float  # CTC loss a token
    right: float  # share of the spoken frames whose likeliest token is the right one
    distance: float  # mean squared distance of the spoken frames from the right embedding
    first: list[int]  # what the first clip's frames say, spaces left out


class Reader:
    """Compares frames with the embeddings of all pieces and of the space."""

    def __init__(self, tok: Any, embeddings: torch.Tensor) -> None:
        self.cutter = pieces(tok)
        self.space = int(tok(" ", add_special_tokens=False).input_ids[0])
        # a byte-pair tokenizer numbers its special tokens first, then the bytes, then its merges
        specials = len(tok.get_added_vocab())
        self.tokens = torch.arange(specials, specials + 256 + MERGES)
        self.table = embeddings[self.tokens]
        self.embeddings = embeddings
        self.log_beta = torch.nn.Parameter(torch.tensor(0.6))

    def scores(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits ``[F, V]`` of frames ``[F, D]`` for all pieces."""
        return self.log_beta.exp() * (frames @ self.table.T - self.table.square().sum(-1) / 2)

    def sequence_loss(self, clips: list[TrainingClip], logits: list[torch.Tensor]) -> torch.Tensor:
        """CTC loss a token of the clips' pieces in order, wherever they stand; the space is the blank."""
        first = int(self.tokens[0])
        pieces_of = [[t - first for _, _, word in word_tokens(self.cutter, clip.text) for t in word] for clip in clips]
        counts = torch.tensor([len(found) for found in pieces_of])
        each = torch.nn.functional.ctc_loss(
            torch.nn.utils.rnn.pad_sequence(logits).log_softmax(-1),
            torch.tensor([token for found in pieces_of for token in found]),
            torch.tensor([len(row) for row in logits]),
            counts,
            blank=self.space - first,
            reduction="none",
            zero_infinity=True,
        )
        return (each / counts).mean()

    def hear(self, clips: list[TrainingClip], rows: list[torch.Tensor], weights: Mix = LAST_MIX) -> Heard:
        """Loss of the frames ``[T_n, D]`` of each clip; only the sequence counts where no word times are known."""
        sizes = torch.tensor([len(row) for row in rows])
        timed = torch.tensor([clip.targets is not None for clip in clips]).repeat_interleave(sizes)
        labels = torch.cat(
            [
                torch.full((len(row),), -1) if clip.targets is None else torch.from_numpy(clip.targets)
                for clip, row in zip(clips, rows, strict=True)
            ]
        )
        labels = torch.where(labels < 0, self.space, labels)
        flat = torch.cat(rows).float()
        logits = self.scores(flat)
        place = labels - self.tokens[0]
        weight = torch.where(labels == self.space, 0.5, 1.0) * timed
        each = torch.nn.functional.cross_entropy(logits, place, reduction="none")
        distance = (flat - self.embeddings[labels]).square().sum(-1)
        timed_frames = weight.sum().clamp(min=1.0)
        framewise = (each * weight).sum() / timed_frames
        anchor = weights.anchor * (distance * weight).sum() / timed_frames
        sequence = self.sequence_loss(clips, list(logits.split(sizes.tolist())))
        spoken = (labels != self.space) & timed
        likeliest = logits.argmax(-1)
        said = self.tokens[likeliest[: len(rows[0])]].tolist()
        return Heard(
            weights.labels * framewise + (1 - weights.labels) * sequence + anchor,
            sequence.item(),
            (likeliest == place)[spoken].float().mean().item(),
            distance[spoken].mean().item(),
            [token for token in said if token != self.space],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop and save after N minutes; run again to resume")
    parser.add_argument("--sentences", type=Path, default=WORK / "sentences.jsonl")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    model, tok = load_language_model(LANGUAGE_MODEL, torch.float32)
    embeddings = model.get_input_embeddings().weight.detach().clone()
    hearing = Hearing(model.config.to_dict())
    del model
    reader = Reader(tok, embeddings)
    state: dict[str, Any] = {"step": 0}
    if HEARING.exists():
        state = torch.load(HEARING)
        hearing.load_state_dict(state["hearing"])
        reader.log_beta.data = state["log_beta"]
    else:
        load_into(hearing.audio_tower)
        linear = hearing.multi_modal_projector.linear
        torch.nn.init.normal_(linear.weight, std=0.003)
        linear.bias.data = embeddings[reader.space].clone()
    step = int(state["step"])
    average = Average(hearing.state_dict(), DECAY, state.get("average"))
    parameters = [*groups(hearing), {"params": [reader.log_beta], "peak": 2e-2}]
    everything = [p for group in parameters for p in group["params"]]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    clips = Clips(read(args.sentences), [*vocabulary(tok), *NAMES], str(LANGUAGE_MODEL), BATCH, step * BATCH)
    clips.word_share, clips.natural = WORD_SHARE, True
    began = saved = time.time()
    first, hits, losses, sequences = step, [], [], []
    for batch in clips:
        frames, lengths = hearing([torch.from_numpy(clip.mel).float() for clip in batch])
        rows = [frame[:length] for frame, length in zip(frames, lengths, strict=True)]
        heard = reader.hear(batch, rows, mix(step))
        spent = max(step / args.steps, (time.time() - began) / (60 * args.minutes))
        pace = min(1.0, (step - first + 1) / WARMUP) * max(0.05, 1 - spent) * mix(step).rate
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * pace
        optimizer.zero_grad(set_to_none=True)
        heard.loss.backward()
        torch.nn.utils.clip_grad_norm_(everything, 1.0)
        optimizer.step()
        average.update()
        step += 1
        hits.append(heard.right)
        sequences.append(heard.sequence)
        losses.append(heard.loss.item())
        elapsed = time.time() - began
        if step % 10 == 0:
            row = {
                "stage": "hear",
                "step": step,
                "seconds": round(elapsed),
                "loss": round(float(np.mean(losses[-10:])), 3),
                "sequence": round(float(np.mean(sequences[-10:])), 3),
                "tokens_right": round(float(np.nanmean(hits[-10:])), 3),
                "beta": round(reader.log_beta.exp().item(), 2),
                "distance": round(heard.distance, 2),
            }
            with LOGS.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, "|", batch[0].text, "->", tok.decode(heard.first), flush=True)
        done = step >= args.steps or elapsed > 60 * args.minutes
        if done or time.time() - saved > 120:
            now = {"hearing": hearing.state_dict(), "average": average.values}
            save(now | {"log_beta": reader.log_beta.data, "step": step}, HEARING)
            saved = time.time()
        if done:
            break
    clips.close()


if __name__ == "__main__":
    main()
