"""Spectrograms, and which token each audio frame should become.

The language model receives 12.5 frames a second. A word's tokens stand in consecutive frames at the middle of the
word; every other frame becomes a space, which the language model reads over. Words are cut into short pieces, by the
first 2,000 merges of the tokenizer instead of all 48,900, so that each piece is heard often and unknown words can be
heard at all. What the unchanged language model loses a token when it repeats the words of such input (text: 0.7):
token held until the next begins 2.7, then with spaces instead 1.1 to 1.3; in pieces of 2,000 merges 1.5, of 800 1.8.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sarsteer.small.design import HOP, MELS, RATE, STRIDE, WINDOW
from training.small.voices import Speech

MERGES = 2000
SECONDS = HOP * STRIDE / RATE  # of one audio token


@functools.lru_cache(maxsize=1)
def _filters() -> torch.Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(WINDOW // 2 + 1, MELS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    return torch.tensor(bank.T, dtype=torch.float32)


def spectrogram(sound: npt.NDArray[np.float32]) -> torch.Tensor:
    """Log-mel spectrogram ``[MELS, T]``, T a multiple of ``STRIDE``, as Whisper's feature extractor computes it."""
    step = HOP * STRIDE
    wave = torch.from_numpy(np.pad(sound, (0, -len(sound) % step)))
    spectrum = torch.stft(wave, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)[..., :-1]
    mel = torch.clamp(_filters() @ spectrum.abs().square(), min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


def spoken_form(text: str) -> str:
    """``text`` as it is labelled: a space before it, and no capital that only opens the sentence."""
    first = text.split()[0]
    opens = first == "A" or (first[1:].islower() and not first.startswith("I'"))
    return " " + (text[0].lower() + text[1:] if opens else text).rstrip(".?!")


def pieces(tok: Any) -> Any:
    """The tokenizer with its first merges only: a token of it has the same id and text in the whole one."""
    from tokenizers import Tokenizer

    state = json.loads(tok.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][:MERGES]
    return Tokenizer.from_str(json.dumps(state))


def word_tokens(cutter: Any, text: str) -> list[tuple[int, str, list[int]]]:
    """(position in ``text``, word, its tokens) of each word; ``cutter`` is what ``pieces`` returns."""
    result = []
    at = 0
    for word in spoken_form(text).split(" ")[1:]:
        result.append((at, word, cutter.encode(" " + word, add_special_tokens=False).ids))
        at += len(word) + 1
    return result


def targets(cutter: Any, text: str, speech: Speech, count: int) -> npt.NDArray[np.int64]:
    """The token of each of ``count`` frames, -1 for a space; needs the times of the words."""
    assert speech.words is not None
    result = np.full(count, -1, np.int64)
    free = 0
    for at, word, tokens in word_tokens(cutter, text):
        inside = [time for time, position in speech.words if at <= position < at + len(word)]
        if not inside:
            continue
        longest = inside[0] + 0.1 + 0.09 * len(word)  # where no word follows
        end = next((time for time, position in speech.words if position >= at + len(word)), longest)
        free = max(free, round((inside[0] + min(end, longest + 0.3)) / 2 / SECONDS - len(tokens) / 2))
        for token in tokens:
            if free < count:
                result[free] = token
            free += 1
    return result
