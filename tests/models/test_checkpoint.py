"""The fingerprint of a checkpoint's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

import sarsteer
from sarsteer import tiny
from sarsteer.errors import ArtifactError
from sarsteer.models.checkpoint import checkpoint_fingerprint, checkpoint_folder, same_architecture


def test_the_files_fingerprint_is_the_loaded_models(embedded: sarsteer.AudioLanguageModel) -> None:
    config = transformers.AutoConfig.from_pretrained(tiny.model_folder())
    fingerprint = checkpoint_fingerprint(tiny.model_folder(), config)
    assert fingerprint.digest == embedded.fingerprint.digest
    assert embedded.fingerprint.difference(fingerprint) is None


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(tiny.model_folder())
    with pytest.raises(ArtifactError, match="has no safetensors weights"):
        checkpoint_fingerprint(tmp_path, config)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="its weights cannot be read"):
        checkpoint_fingerprint(tmp_path, config)


def test_a_decoder_of_another_depth_is_an_error() -> None:
    config = transformers.AutoConfig.from_pretrained(tiny.model_folder())
    config.get_text_config(decoder=True).num_hidden_layers = 99
    with pytest.raises(ArtifactError, match="no groups of 99 layers"):
        checkpoint_fingerprint(tiny.model_folder(), config)


def test_files_that_are_not_here_are_not_downloaded() -> None:
    assert checkpoint_folder(str(tiny.model_folder())) == tiny.model_folder()
    with pytest.raises(ArtifactError, match=r"nobody/nothing: its files are not on this machine"):
        checkpoint_folder("nobody/nothing")


def test_an_omni_model_and_its_thinker_are_one_architecture() -> None:
    assert same_architecture("Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniThinkerForConditionalGeneration")
    assert not same_architecture("Qwen2_5OmniForConditionalGeneration", "VoxtralForConditionalGeneration")
