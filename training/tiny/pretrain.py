"""First stage: train only the audio encoder, on speech recognition.

Trained jointly from scratch, the model does not learn to recognize speech within an hour. The speech synthesizer
reports when each phoneme begins, so the encoder first learns the phoneme of every 20 ms, which needs no alignment, and
the tokens with CTC. Joint training then starts from this encoder.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch.nn import functional as F

from sarsteer.models.families.qwen2_audio import encoder_states
from training.tiny.clips import SECONDS, SEED, Spoken

NEIGHBORS = 2000


def augment(features: torch.Tensor, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """SpecAugment on most rows: blank a band of mels and a range of time."""
    features = features.clone()
    low = features.amin(dim=(1, 2))
    for row in range(len(features)):
        if rng.random() < 0.3:
            continue
        start, width = rng.integers(0, 72), rng.integers(0, 10)
        features[row, start : start + width] = low[row]
        start, width = rng.integers(0, max(1, int(frames[row]) - 8)), rng.integers(0, 8)
        features[row, :, start : start + width] = low[row]
        # voices differ in spectral tilt: a slope over the mels, and a shift by one or two bins
        tilt = torch.linspace(-1, 1, features.shape[1], device=features.device) * float(rng.normal(0, 0.1))
        features[row] = torch.roll(features[row], int(rng.integers(-2, 3)), dims=0) + tilt[:, None]
    return features


def batch_of(clips: list[Spoken], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.from_numpy(np.stack([c.features for c in clips])).to(device, torch.float32)  # type: ignore[arg-type]
    return features, torch.tensor([c.frames for c in clips], device=device)


def phoneme_targets(clips: list[Spoken], inventory: dict[str, int], tokens: int) -> torch.Tensor:
    """``[N, tokens, 2]``: the phoneme in each half of every 40 ms token; 0 is silence, -100 is after the clip."""
    out = torch.full((len(clips), tokens, 2), -100)
    for row, clip in enumerate(clips):
        times = np.array([at for at, _ in clip.phonemes])
        names = [inventory.get(name, 0) for _, name in clip.phonemes]
        last = min(tokens, clip.frames // 4)
        middles = np.arange(2 * last) * 20 + 10
        which = np.searchsorted(times, middles, side="right") - 1
        labels = [names[i] if i >= 0 else 0 for i in which]
        out[row, :last] = torch.tensor(labels).view(last, 2)
    return out


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    return peak * min(1.0, (step + 1) / warmup) * (0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02)


def pretrain(model: Any, tok: Any, clips: list[Spoken], steps: int, batch: int = 32, peak: float = 2e-3) -> None:
    """Train ``model``'s audio tower in place."""
    tower = model.model.audio_tower
    device = next(tower.parameters()).device
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    clips = sorted((c for c in clips if c.frames < SECONDS * 100), key=lambda c: c.frames)
    names = sorted({name for c in clips for _, name in c.phonemes if name and name[0] not in "_;"})
    inventory = {name: number for number, name in enumerate(names, 1)}
    head = torch.nn.Linear(tower.config.d_model, len(tok) + 1).to(device)
    phoneme_head = torch.nn.Linear(tower.config.d_model, 2 * (len(names) + 1)).to(device)
    targets = {id(c): torch.tensor(tok(c.text)["input_ids"]) + 1 for c in clips}
    weights = [p for p in [*tower.parameters(), *head.parameters(), *phoneme_head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, peak, betas=(0.9, 0.98), weight_decay=0.01)
    tower.train()
    running = None
    with Progress() as progress:
        task = progress.add_task("training the encoder", total=steps)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak)
            # clips of similar length, so that batches have little padding
            low = int(rng.integers(0, max(1, len(clips) - NEIGHBORS)))
            rows = [clips[i] for i in rng.integers(low, min(len(clips), low + NEIGHBORS), batch)]
            features, frames = batch_of(rows, device)
            states, lengths = encoder_states(tower, augment(features, frames, rng), frames)
            scores = head(states).log_softmax(-1).transpose(0, 1)
            wanted = [targets[id(r)] for r in rows]
            spelling = F.ctc_loss(
                scores, torch.cat(wanted), lengths, torch.tensor([len(w) for w in wanted]), zero_infinity=True
            )
            phonemes = phoneme_targets(rows, inventory, states.shape[1]).to(device)
            naming = F.cross_entropy(phoneme_head(states).view(-1, len(names) + 1), phonemes.view(-1))
            loss = naming + 0.5 * spelling
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            now = np.array([naming.item(), spelling.item()])
            running = now if running is None else 0.97 * running + 0.03 * now
            progress.update(task, advance=1, description=f"training the encoder (loss {running.sum():.3f})")
            if step % 100 == 99:
                progress.console.print(
                    f"encoder: step {step + 1}/{steps}, phonemes {running[0]:.4f}, tokens {running[1]:.4f}"
                )
    tower.eval()
