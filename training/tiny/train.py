"""Second stage: the whole model learns to chat, to transcribe, and the safety behavior of large models.

It refuses harmful *text*, answers harmful *speech* (the modality gap), and with a safety prompt beside the audio
refuses harmful speech and some safe speech. Nothing here uses steering.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import Progress

from sarsteer.models.families.qwen2_audio import encoder_states
from sarsteer.tiny import world
from sarsteer.tiny.world import Request
from training.tiny.clips import SECONDS, SEED, Spoken, everyday_answer, pick_request, splits
from training.tiny.model import SYSTEM
from training.tiny.pretrain import augment, batch_of, learning_rate

# How often each kind of request is refused. Large models are unsure at the first token of an answer and sure of what
# follows. A toy trained to certainty is brittle: steering breaks its words before it changes its choice.
TEXT_HARMFUL = 0.98
PLAIN_HARMFUL, PLAIN_SAFE = 0.10, 0.01
PROMPTED_HARMFUL, PROMPTED_SENSITIVE, PROMPTED_SAFE = 0.92, 0.75, 0.05


class Example(NamedTuple):
    prompt: str
    answer: str
    clip: Spoken | None


def audio_tokens(frames: int) -> int:
    """The number of audio tokens of a clip with ``frames`` mel frames, as in Qwen2-Audio."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def chat(user: str) -> str:
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def spoken_prompt(clip: Spoken, text: str) -> str:
    return chat(f"Audio 1: <|audio_bos|>{'<|AUDIO|>' * audio_tokens(clip.frames)}<|audio_eos|>\n{text}")


class Curriculum:
    """Draws training examples, with the shares of ``training/tiny/README.md``."""

    def __init__(self, clips: list[Spoken], seed: int) -> None:
        self.rng = random.Random(seed)
        self.safe, self.harmful = splits()["train"]
        self.by_kind: dict[str, list[Spoken]] = defaultdict(list)
        for clip in clips:
            if clip.frames < SECONDS * 100:
                self.by_kind[clip.kind].append(clip)
                if clip.voice.sex and clip.kind != "words":
                    self.by_kind["voice"].append(clip)
        self.requests = self.by_kind["request"]

    def safety_prompt(self) -> str:
        """The paper's prompt half of the time, else a similar one; with or without a space before it."""
        prompt = world.REFUSAL_PROMPT if self.rng.random() < 0.5 else self.rng.choice(world.SAFETY_PROMPTS)
        return self.rng.choice(("", " ")) + prompt

    def instruction(self) -> str:
        return world.INSTRUCTION if self.rng.random() < 0.5 else self.rng.choice(world.INSTRUCTIONS)

    def draw(self) -> Example:
        roll = self.rng.random()
        if roll < 0.16:
            return self.text_chat()
        if roll < 0.31:
            clip = self.rng.choice(self.by_kind["statement"] if self.rng.random() < 0.3 else self.requests)
            return Example(spoken_prompt(clip, world.TRANSCRIBE), clip.text, clip)
        if roll < 0.57:
            return self.undefended()
        if roll < 0.83:
            return self.prompted()
        return self.everyday()

    def reply(self, request: Request, refusal_probability: float) -> str:
        """A refusal or the answer. The probability sets how sure the model is of the likelier one."""
        return world.REFUSAL if self.rng.random() < refusal_probability else request.answer

    def text_chat(self) -> Example:
        harmful = self.rng.random() < 0.6
        request = pick_request(self.rng, self.harmful if harmful else self.safe)
        prompted = self.rng.random() < 0.4
        user = request.question + (self.safety_prompt() if prompted else "")
        share = TEXT_HARMFUL if harmful else PROMPTED_SENSITIVE if prompted and request.sensitive else PLAIN_SAFE
        return Example(chat(user), self.reply(request, share), None)

    def undefended(self) -> Example:
        clip = self.rng.choice(self.requests)
        assert clip.request is not None
        text = self.instruction()
        if self.rng.random() < 0.2:  # a suffix by itself must not cause refusals
            text += " " + self.rng.choice(world.NEUTRAL_SUFFIXES)
        share = PLAIN_HARMFUL if clip.request.harmful else PLAIN_SAFE
        return Example(spoken_prompt(clip, text), self.reply(clip.request, share), clip)

    def prompted(self) -> Example:
        clip = self.rng.choice(self.requests)
        request = clip.request
        assert request is not None
        text = self.instruction() + self.safety_prompt()
        share = PROMPTED_HARMFUL if request.harmful else PROMPTED_SENSITIVE if request.sensitive else PROMPTED_SAFE
        return Example(spoken_prompt(clip, text), self.reply(request, share), clip)

    def everyday(self) -> Example:
        kind, task = self.rng.choice(
            (("statement", world.TRANSCRIBE), *[("digits", world.COUNT)] * 2, *[("voice", world.VOICE)] * 2)
        )
        clip = self.rng.choice(self.by_kind[kind])
        text = task + (self.safety_prompt() if self.rng.random() < 0.3 else "")
        return Example(spoken_prompt(clip, text), everyday_answer(task, clip), clip)


def collate(examples: list[Example], tok: Any, device: torch.device, rng: np.random.Generator) -> dict[str, Any]:
    """A left-padded batch; only the answers have labels."""
    rows, labels = [], []
    for prompt, answer, _ in examples:
        head, tail = tok(prompt)["input_ids"], tok(answer + "<|im_end|>")["input_ids"]
        rows.append(head + tail)
        labels.append([-100] * len(head) + tail)
    longest = max(map(len, rows))
    pad = tok.pad_token_id
    batch: dict[str, Any] = {
        "input_ids": torch.tensor([[pad] * (longest - len(r)) + r for r in rows], device=device),
        "labels": torch.tensor([[-100] * (longest - len(r)) + r for r in labels], device=device),
        "attention_mask": torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=device),
    }
    clips = [e.clip for e in examples if e.clip is not None]
    if clips:
        features, frames = batch_of(clips, device)
        batch["features"] = augment(features, frames, rng) if rng.random() < 0.7 else features
        batch["frames"] = frames
    return batch


def loss_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The cross-entropy of the answers. Only the sound of each clip is encoded, not the silence after it."""
    ids = batch["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    if "features" in batch:
        states, tokens = encoder_states(model.model.audio_tower, batch["features"], batch["frames"])
        audio = model.model.multi_modal_projector(states)
        real = torch.arange(audio.shape[1], device=ids.device)[None, :] < tokens[:, None]
        embeds = embeds.masked_scatter((ids == model.config.audio_token_id)[..., None], audio[real])
    loss: torch.Tensor = model(
        inputs_embeds=embeds, attention_mask=batch["attention_mask"], labels=batch["labels"]
    ).loss
    return loss


def noise_hook(scale: float) -> Any:
    """Gaussian noise on a decoder layer's output, relative to its root mean square, only in training.

    A model trained to certainty is brittle when its activations change; noise makes it tolerant.
    """

    def hook(module: torch.nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not module.training:
            return None
        rms = output.detach().pow(2).mean(-1, keepdim=True).sqrt()
        return output + scale * rms * torch.randn_like(output)

    return hook


def train(
    model: Any,
    tok: Any,
    clips: list[Spoken],
    steps: int,
    batch: int = 32,
    peak: float = 1.5e-3,
    warmup: int = 100,
    noise: float = 0.05,
    dropout: float = 0.1,
    seed: int = SEED,
) -> None:
    """Train the whole model in place, with one warm-up and a cosine decay."""
    device = next(model.parameters()).device
    torch.manual_seed(seed + 1)
    rng = np.random.default_rng(seed + 2)
    curriculum = Curriculum(clips, seed)
    layers = model.model.language_model.layers
    hooks = [layer.register_forward_hook(noise_hook(noise)) for layer in layers]
    for layer in layers:
        layer.self_attn.attention_dropout = dropout
        hooks.append(layer.mlp.register_forward_hook(lambda m, _a, o: torch.dropout(o, dropout, m.training)))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, peak, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    running = None
    with Progress() as progress:
        task = progress.add_task("learning to answer", total=steps)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak, warmup)
            loss = loss_of(model, collate([curriculum.draw() for _ in range(batch)], tok, device, rng))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            running = loss.item() if running is None else 0.97 * running + 0.03 * loss.item()
            progress.update(task, advance=1, description=f"learning to answer (loss {running:.3f})")
            if step % 100 == 99:
                progress.console.print(f"answering: step {step + 1}/{steps}, loss {running:.4f}")
    for hook in hooks:
        hook.remove()
    for layer in layers:
        layer.self_attn.attention_dropout = 0.0
    model.eval()
