"""A server starts only with the weights that were calibrated."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sarsteer
from sarsteer import tiny
from sarsteer.errors import ArtifactError
from sarsteer.vllm.worker.weights import check_weights


def served(folder: Path, **changes: Any) -> SimpleNamespace:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model = SimpleNamespace(
        model=str(folder), revision=None, quantization=None, hf_config=config, hf_text_config=config.text_config
    )
    load = SimpleNamespace(load_format="auto", download_dir=None)
    for name, value in changes.items():
        setattr(load if hasattr(load, name) else model, name, value)
    return SimpleNamespace(model_config=model, load_config=load)


def test_the_calibrated_weights_are_accepted(steering: sarsteer.Steering) -> None:
    checked = check_weights(served(tiny.model_folder()), steering)
    assert "a sample of every decoder weight on disk" in checked


def test_other_weights_are_refused(steering: sarsteer.Steering, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in tiny.model_folder().iterdir():
        (tmp_path / path.name).symlink_to(path)
    tensors = load_file(tiny.model_folder() / "model.safetensors")
    name = "language_model.model.layers.5.self_attn.q_proj.weight"
    tensors[name] = tensors[name] + 1e-2  # fine-tuned a little
    (tmp_path / "model.safetensors").unlink()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="another model than this one"):
        check_weights(served(tmp_path), steering)
    assert check_weights(served(tmp_path), steering, allow_other_model=True) == ["layers", "width"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization": "fp8"}, "quantized"),
        ({"load_format": "dummy"}, "--load-format dummy"),
        ({"model": "nobody/nothing"}, "not on this machine"),
    ],
)
def test_weights_that_cannot_be_checked_are_refused(
    steering: sarsteer.Steering, change: dict[str, str], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_weights(served(tiny.model_folder(), **change), steering)


def test_another_shape_is_refused_even_if_other_models_are_allowed(steering: sarsteer.Steering) -> None:
    config = served(tiny.model_folder())
    config.model_config.hf_text_config = SimpleNamespace(num_hidden_layers=28, hidden_size=3584)
    with pytest.raises(ArtifactError, match="8 layers of width 256, the model 28 of 3584"):
        check_weights(config, steering, allow_other_model=True)
