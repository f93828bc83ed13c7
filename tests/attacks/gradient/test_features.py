"""Differentiable features equal those of the processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer import AudioLanguageModel
from sarsteer.attacks.gradient.features import LogMel, log_mel_of
from sarsteer.attacks.gradient.forward import DifferentiableClip
from sarsteer.audio import load_clip
from sarsteer.data.pairs import Pairs
from sarsteer.errors import AttackError
from tests.support.families import FAMILIES
from tests.support.tiny import conversation

EXTRACTORS = {
    "qwen2-audio": T.WhisperFeatureExtractor(feature_size=128, chunk_length=30),
    "voxtral": T.WhisperFeatureExtractor(feature_size=128, chunk_length=30),
    "whisper": T.WhisperFeatureExtractor(),
    "sarsteer-small": T.WhisperFeatureExtractor(feature_size=80, hop_length=320, chunk_length=60, n_fft=400),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "qwen2-audio": {},
    "voxtral": dict(padding=True, truncation=False, pad_to_multiple_of=480_000),
    "whisper": {},
    "sarsteer-small": {},
}


def gap(name: str, samples: np.ndarray, **options: Any) -> float:
    extractor = EXTRACTORS[name]
    theirs = extractor(samples, sampling_rate=16_000, return_tensors="pt", **{**OPTIONS[name], **options})
    features = theirs["input_features"][0]
    ours = LogMel(extractor)(torch.from_numpy(samples), features.shape[-1] * extractor.hop_length)
    assert ours.shape == features.shape
    return float((ours - features).abs().max())


@pytest.mark.parametrize("name", EXTRACTORS)
@given(
    length=st.sampled_from([1, 159, 160, 161, 400, 16_000, 47_999]),
    loudness=st.sampled_from([1e-4, 0.01, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=6)
def test_random_clips_equal_the_processors(name: str, length: int, loudness: float, seed: int) -> None:
    samples = (loudness * np.random.default_rng(seed).uniform(-1, 1, length)).astype(np.float32)
    assert gap(name, samples) <= 1e-5


@pytest.mark.parametrize("name", EXTRACTORS)
def test_spoken_clips_equal_the_processors(name: str, test_pairs: Pairs) -> None:
    for item in test_pairs.harmful[:3]:
        assert gap(name, load_clip(item.audio).resampled(16_000).samples) <= 1e-5


def test_longer_than_a_window_as_voxtral_pads_it(wave: np.ndarray) -> None:
    assert gap("voxtral", np.tile(wave, 31)) <= 1e-5


def test_silence_around_a_click() -> None:
    samples = np.zeros(16_000, np.float32)
    samples[8_000] = 1.0
    assert gap("whisper", samples) <= 1e-5


@pytest.mark.parametrize("name", ["qwen2_audio", "voxtral", "audio_flamingo_3"])
@pytest.mark.parametrize("seconds", [0.01, 1.3])
def test_a_model_reads_the_same_features(name: str, seconds: float) -> None:
    module, processor = FAMILIES[name]()
    model = AudioLanguageModel(module.eval(), processor, name=name)
    turn = conversation(3, seconds)
    clip = DifferentiableClip(model, turn, int(16_000 * seconds))  # compares them, and refuses a difference
    assert clip.prompt_length == len(model.prepare([turn])[0].input_ids)


@pytest.mark.parametrize("name", ["granite_speech", "phi4_multimodal"])
def test_other_features_are_refused_by_name(name: str) -> None:
    module, processor = FAMILIES[name]()
    model = AudioLanguageModel(module.eval(), processor, name=name)
    with pytest.raises(AttackError, match=model.family.name) as raised:
        log_mel_of(model)
    assert "\n" not in str(raised.value)


def test_dither_is_refused() -> None:
    with pytest.raises(AttackError, match="dither"):
        LogMel(T.WhisperFeatureExtractor(dither=0.1))


def test_gradients_equal_finite_differences_in_float64(wave: np.ndarray) -> None:
    log_mel = LogMel(EXTRACTORS["whisper"], torch.float64)
    samples = torch.from_numpy(wave[:1600]).double().requires_grad_(True)
    weights = torch.randn(80, 15, dtype=torch.float64)
    (log_mel(samples, 2400) * weights).sum().backward()
    direction = torch.randn(1600, dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        up, down = ((log_mel(samples + sign * step * direction, 2400) * weights).sum() for sign in (1, -1))
    assert samples.grad is not None
    # central differences: an error of order step², against rounding of order 1e-16 / step
    torch.testing.assert_close(samples.grad @ direction, (up - down) / (2 * step), rtol=1e-5, atol=1e-6)
