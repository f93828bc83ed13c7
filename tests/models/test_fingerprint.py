"""What the fingerprint tells apart: every part of a model, in every dtype, and weights that are offloaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import accelerate
import peft
import pytest
import torch

from sarsteer.errors import ModelError
from sarsteer.models.fingerprint import Fingerprint, fingerprint_of
from sarsteer.models.layers import find_decoder_layers
from tests.support.tiny import tiny_qwen2_audio


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    return tiny_qwen2_audio(seed=4).module


def of(module: torch.nn.Module) -> Fingerprint:
    return fingerprint_of(module, find_decoder_layers(module))


def noisy(module: torch.nn.Module, share: float, chosen: Callable[[str], bool] = lambda _: True) -> torch.nn.Module:
    """A copy in which each chosen weight is multiplied by 1 plus Gaussian noise."""
    out = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in out.named_parameters():
            if chosen(name):
                parameter.mul_(1 + share * torch.randn(parameter.shape, generator=generator))
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_item_3_noise_of_2_percent_is_another_model_in_any_dtype(module: torch.nn.Module, dtype: torch.dtype) -> None:
    calibrated = of(module)
    assert calibrated.difference(of(copy.deepcopy(module).to(dtype))) is None
    found = calibrated.difference(of(noisy(module, 0.02).to(dtype)))
    assert found is not None
    assert "decoder layers" in found
    assert "encoder" in found


def test_item_3_two_roundings_of_the_same_weights_agree(module: torch.nn.Module) -> None:
    half, brain = (of(copy.deepcopy(module).to(dtype)) for dtype in (torch.float16, torch.bfloat16))
    assert half.difference(brain) is None
    assert brain.difference(half) is None


@pytest.mark.parametrize(
    ("part", "inside"),
    [
        ("encoder", "audio_tower"),
        ("projector", "multi_modal_projector"),
        ("embeddings", "embed_tokens"),
        ("head", "lm_head"),
        ("decoder layers", "language_model.layers"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_item_3_the_part_that_differs_is_named(
    module: torch.nn.Module, part: str, inside: str, dtype: torch.dtype
) -> None:
    assert any(inside in name for name, _ in module.named_parameters())
    other = of(noisy(module, 0.02, lambda name: inside in name).to(dtype))
    assert of(module).difference(other) == f"other weights in the {part}"
    assert of(module).identity != other.identity


def test_item_3_an_unmerged_adapter_differs(module: torch.nn.Module) -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(copy.deepcopy(module), config)
    calibrated = of(module)
    assert of(adapted).digest == calibrated.digest, "the adapter wraps the same weights"
    assert calibrated.difference(of(adapted)) == "other weights in the adapters"
    assert of(adapted).difference(calibrated) == "other weights in the adapters"
    torch.manual_seed(1)
    other = peft.get_peft_model(copy.deepcopy(module), config)
    assert of(adapted).difference(of(other)) == "other weights in the adapters"
    assert "decoder layers" in str(calibrated.difference(of(adapted.merge_and_unload())))


@pytest.mark.parametrize("offload", ["disk", "cpu"])
def test_item_3_offloaded_weights_are_read_where_they_are(
    module: torch.nn.Module, tmp_path: Path, offload: str
) -> None:
    def offloaded(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
        if offload == "cpu":
            return accelerate.cpu_offload(model, torch.device("cpu"))
        return accelerate.disk_offload(model, str(folder), torch.device("cpu"))

    expected, other = of(module), of(noisy(module, 0.02))
    away = offloaded(copy.deepcopy(module), tmp_path / "same")
    assert next(find_decoder_layers(away)[0].parameters()).is_meta
    assert of(away) == expected
    assert of(offloaded(noisy(module, 0.02), tmp_path / "other")) == other
    assert expected.difference(other) is not None


def test_item_3_weights_without_values_are_refused(module: torch.nn.Module) -> None:
    with pytest.raises(ModelError, match=r"has no values \(it is on the meta device\)"):
        of(copy.deepcopy(module).to("meta"))
    zero = copy.deepcopy(module)
    for parameter in find_decoder_layers(zero)[1].parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(ModelError, match="decoder layer 1 are all zero"):
        of(zero)


def test_artifacts_of_earlier_versions_are_compared_as_before(module: torch.nn.Module) -> None:
    """They store one digest and one mean per layer."""
    stored = {key: value for key, value in json.loads(of(module).to_json()).items() if key != "parts"}
    old = Fingerprint.from_json(json.dumps(stored))
    assert old.parts == ()
    assert old.difference(of(module)) is None
    assert old.difference(of(copy.deepcopy(module).bfloat16())) is None
    assert old.difference(of(noisy(module, 0.02))) == "other weights"
    assert old.difference(of(noisy(module, 0.5).bfloat16())) == "other weights"


def test_a_checkpoints_files_are_compared_by_the_decoder_only(module: torch.nn.Module) -> None:
    whole = of(module)
    files = replace(whole, parts=whole.parts[:1])
    assert whole.difference(files) is None
    assert files.difference(of(noisy(module, 0.02, lambda name: "projector" in name))) is None
    assert files.difference(of(noisy(module, 0.02))) == "other weights in the decoder layers"
    assert Fingerprint.from_json(whole.to_json()) == whole
