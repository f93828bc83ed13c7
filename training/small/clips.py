"""Endless training clips, made in a process of their own: texts, voices and noise follow from the clip's number."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.small.frames import pieces, spectrogram, targets
from training.small.voices import ESPEAK_VOICES, available_natural, speak, varied

NATURAL_SHARE = 0.45  # of the clips are of recorded or neural voices, where any is installed
LONGEST = 400  # spectrogram frames: 8 s


@dataclass(frozen=True)
class TrainingClip:
    """A spectrogram ``[80, 4 T]`` in float16, with the target of each frame where the word times are known."""

    text: str
    mel: npt.NDArray[np.float16]
    targets: npt.NDArray[np.int64] | None


_texts: list[str] = []
_words: list[str] = []
_cutter: Any = None


def _start(texts: list[str], words: list[str], tokenizer: str) -> None:
    global _texts, _words, _cutter
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # not to outlive a killed run
    _texts, _words, _cutter = texts, words, pieces(AutoTokenizer.from_pretrained(tokenizer))


def _text(rng: random.Random, word_share: float) -> str:
    """A sentence; or words in no order, which spreads the training over the vocabulary."""
    if rng.random() >= word_share:
        return rng.choice(_texts)
    words = " ".join(rng.choice(_words) for _ in range(rng.randint(4, 8)))
    return words[0].upper() + words[1:] + "."


def _make(number: int, word_share: float, natural: bool) -> TrainingClip:
    rng = random.Random(number)
    for _ in range(9):
        text = _text(rng, word_share)
        voices = available_natural() if natural and rng.random() < NATURAL_SHARE else ESPEAK_VOICES
        speech = varied(speak(text, rng.choice(voices or ESPEAK_VOICES), rng), rng)
        mel = spectrogram(speech.samples)
        if mel.shape[1] <= LONGEST:
            break
    labels = None if speech.words is None else targets(_cutter, text, speech, mel.shape[1] // 4)
    return TrainingClip(text, mel[:, :LONGEST].half().numpy(), labels)


class Clips:
    """Batches of clips of similar length; the next ones are made while the newest is trained on."""

    def __init__(self, texts: list[str], words: list[str], tokenizer: str, batch: int, first: int) -> None:
        self.batch, self.number = batch, first
        self.word_share, self.natural = 0.0, False
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _start, (texts, words, tokenizer))
        self._waiting: list[Future[TrainingClip]] = []

    def __iter__(self) -> Iterator[list[TrainingClip]]:
        rng = random.Random(self.number)
        pool_size = 4 * self.batch
        while True:
            while len(self._waiting) < 2 * pool_size:
                self._waiting.append(self._pool.submit(_make, self.number, self.word_share, self.natural))
                self.number += 1
            ready = [future.result() for future in self._waiting[:pool_size]]
            self._waiting = self._waiting[pool_size:]
            for _ in range(pool_size):
                self._waiting.append(self._pool.submit(_make, self.number, self.word_share, self.natural))
                self.number += 1
            ready.sort(key=lambda clip: clip.mel.shape[1])
            groups = [ready[i : i + self.batch] for i in range(0, pool_size, self.batch)]
            rng.shuffle(groups)
            yield from groups

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
