"""Models that only transcribe are refused by one line that says so, before their weights are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as T

from sarsteer import AudioLanguageModel, load_model
from sarsteer.errors import ModelError
from sarsteer.models.family import family_named
from sarsteer.models.transcribers import TRANSCRIBERS
from tests.cli.command import refused

NAMED = {
    "voxtral_realtime": "VoxtralRealtimeForConditionalGeneration",
    "nemotron_asr_streaming": "NemotronAsrStreamingForRNNT",
    "fun_asr_nano": "FunAsrNanoForConditionalGeneration",
    "qwen3_asr": "Qwen3ASRForConditionalGeneration",
    "vibevoice_asr": "VibeVoiceAsrForConditionalGeneration",
}


@pytest.mark.parametrize("kind", NAMED)
def test_it_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "architectures": [NAMED[kind]]}))
    with pytest.raises(ModelError, match=rf"{TRANSCRIBERS[NAMED[kind]]} only transcribes speech") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_doctor_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "qwen3_asr", "architectures": ["Qwen3ASRForConditionalGeneration"]})
    )
    refused("doctor", tmp_path, says="Qwen3-ASR only transcribes speech and answers no requests")


def test_a_model_in_memory_is_refused() -> None:
    small = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    with torch.device("meta"):
        whisper = T.WhisperForConditionalGeneration(T.WhisperConfig(**small, vocab_size=60_000))
    with pytest.raises(ModelError, match="Whisper only transcribes"):
        AudioLanguageModel(whisper, object())


def test_none_is_also_a_family() -> None:
    assert not [name for name in TRANSCRIBERS if family_named(name)]


def test_their_classes_exist() -> None:
    """A name that transformers renames would no longer be recognized."""
    newer = {"OmniASRForCTC", "OmniASRForConditionalGeneration"}  # transformers 5.24
    missing = {name for name in TRANSCRIBERS if not hasattr(T, name)}
    if T.__version__ >= "5.23":
        assert missing <= newer
