"""The steering artifact: its file, every way in which the file can be wrong, and how strengths are resolved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sarsteer
from sarsteer import Steering
from sarsteer.errors import ArtifactError, SarsteerError, SteeringError
from tests.support.tiny import tiny_qwen2_audio

TENSORS = ("refusal", "safe_basis", "singular_values", "safe_mean", "harmful_mean", "activation_norms")


@pytest.fixture
def saved(steering: Steering, tmp_path: Path) -> Path:
    return steering.save(tmp_path / "steering.safetensors")


def rewrite(path: Path, metadata: dict[str, object] | None = None, **tensors: torch.Tensor | None) -> Path:
    """The file with other metadata or tensors (None removes one)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sarsteer"])
    contents = {**load_file(path), **tensors}
    header = {**header, **(metadata or {})}
    header = {k: v for k, v in header.items() if v is not None}
    save_file({k: v for k, v in contents.items() if v is not None}, path, metadata={"sarsteer": json.dumps(header)})
    return path


def test_round_trip(steering: Steering, saved: Path) -> None:
    again = Steering.load(saved)
    for name in TENSORS:
        assert torch.equal(getattr(again, name), getattr(steering, name))
    assert again.metadata == steering.metadata
    assert again.digest == steering.digest
    assert torch.equal(Steering.from_pretrained(saved.parent).vectors(k=3), steering.vectors(k=3))


def test_saving_twice_gives_the_same_bytes(steering: Steering, saved: Path, tmp_path: Path) -> None:
    assert steering.save(tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_metadata_records_model_and_pairs(steering: Steering, embedded: sarsteer.AudioLanguageModel) -> None:
    meta = steering.metadata
    assert meta["format_version"] == 2, "it contains a gate"
    assert meta["model"]["name"] == "sarsteer-tiny"
    assert (meta["layers"], meta["hidden_size"]) == (8, 256)
    assert meta["pairs"] == 24
    assert meta["fingerprint"]["digest"] == embedded.fingerprint.digest
    assert meta["refusal_prompt"] == "I cannot assist with that."


def test_strengths_are_chosen_at_use(steering: Steering) -> None:
    raw = steering.vectors(k=0)
    assert torch.equal(raw, steering.refusal)
    assert torch.equal(raw, steering.vectors(k=5, lambda_=0.0))
    assert not torch.equal(raw, steering.vectors(k=5))
    assert torch.equal(steering.vectors(), steering.vectors(k=10, lambda_=1.0)), "the paper's are the defaults"
    other = steering.with_defaults(alpha=0.3, k=2, lambda_=0.5)
    assert torch.equal(other.vectors(), steering.vectors(2, 0.5))
    assert other.defaults == (0.3, 2, 0.5)


@pytest.mark.parametrize(
    ("k", "lambda_", "match"),
    [(-1, 1.0, "whole number"), (1.5, 1.0, "whole number"), (64, 1.0, "above the rank"), (2, math.nan, "finite")],
)
def test_bad_strengths(steering: Steering, k: int, lambda_: float, match: str) -> None:
    with pytest.raises(SteeringError, match=match):
        steering.vectors(k, lambda_)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such steering file"):
        Steering.load(tmp_path / "none.safetensors")
    with pytest.raises(ArtifactError, match="neither a file nor"):
        Steering.from_pretrained("someone/not-there")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_file(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="truncated"):
        Steering.load(saved)


def test_not_safetensors(saved: Path) -> None:
    saved.write_text("pickle me not " * 100)
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        Steering.load(saved)


def test_another_safetensors_file(saved: Path) -> None:
    save_file({"weight": torch.ones(2)}, saved)
    with pytest.raises(ArtifactError, match="without steering"):
        Steering.load(saved)


@pytest.mark.parametrize("version", [0, 4, "1", None])
def test_other_format_version(saved: Path, version: object) -> None:
    with pytest.raises(ArtifactError, match="format version"):
        Steering.load(rewrite(saved, {"format_version": version}))


def test_damaged_metadata(saved: Path) -> None:
    tensors = load_file(saved)
    for header in ("{", "[]"):
        save_file(tensors, saved, metadata={"sarsteer": header})
        with pytest.raises(ArtifactError, match="damaged"):
            Steering.load(saved)


def test_missing_parts(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="safe_mean missing"):
        Steering.load(rewrite(saved, safe_mean=None))


def test_missing_metadata(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="metadata lacks instruction"):
        Steering.load(rewrite(saved, {"instruction": None}))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"safe_mean": torch.zeros(8, 4)}, "shape"),
        ({"refusal": torch.zeros(8, 4)}, "shape"),
        ({"refusal": torch.zeros(8)}, "dimensions"),
        ({"activation_norms": torch.full((8,), math.nan)}, "NaN"),
    ],
)
def test_wrong_tensors(saved: Path, change: dict[str, torch.Tensor], match: str) -> None:
    with pytest.raises(ArtifactError, match=match) as caught:
        Steering.load(rewrite(saved, **change))
    assert str(saved) in str(caught.value)


def test_metadata_that_contradicts_the_tensors(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="layers"):
        Steering.load(rewrite(saved, {"layers": 9}))


def test_another_model_is_refused(steering: Steering, tiny: sarsteer.AudioLanguageModel) -> None:
    with pytest.raises(ArtifactError, match="calibrate this model"):
        steering.attach(tiny)
    with pytest.raises(ArtifactError, match="calibrate this model"):
        steering.attach(tiny, allow_other_model=True)  # shapes must agree all the same


def test_same_shape_other_weights_is_refused_unless_allowed(tiny: sarsteer.AudioLanguageModel) -> None:
    steering = small_steering(tiny)
    twin = tiny_qwen2_audio(seed=1)
    with pytest.raises(ArtifactError, match="other weights"):
        steering.attach(twin)
    steering.attach(twin, allow_other_model=True).remove()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_model_in_another_dtype_is_accepted(tiny: sarsteer.AudioLanguageModel, dtype: torch.dtype) -> None:
    steering = small_steering(tiny)
    copy = tiny_qwen2_audio(seed=0)
    copy.module.to(dtype)
    steering.attach(copy).remove()
    other = tiny_qwen2_audio(seed=1)
    other.module.to(dtype)
    with pytest.raises(ArtifactError, match="other weights"):
        steering.attach(other)


def test_a_failed_save_leaves_no_file(steering: Steering, tmp_path: Path) -> None:
    with pytest.raises(SarsteerError, match="does not exist"):
        steering.save(tmp_path / "none" / "s.safetensors")
    with pytest.raises(SarsteerError, match="is a folder"):
        steering.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def small_steering(model: sarsteer.AudioLanguageModel) -> Steering:
    """Random vectors whose metadata name ``model`` as the calibrated one."""
    layers, width = len(model.decoder_layers), model.hidden_size
    torch.manual_seed(3)
    return Steering(
        refusal=torch.randn(layers, width),
        safe_basis=torch.linalg.qr(torch.randn(layers, width, 5))[0].transpose(1, 2).contiguous(),
        singular_values=torch.ones(layers, 5),
        safe_mean=torch.zeros(layers, width),
        harmful_mean=torch.zeros(layers, width),
        activation_norms=torch.ones(layers),
        metadata={
            "format_version": 1,
            "model": {"name": model.name},
            "fingerprint": model.fingerprint.to_dict(),
            "layers": layers,
            "hidden_size": width,
            "instruction": "t",
            "refusal_prompt": "p",
            "pairs": 5,
            "pairs_digest": "",
        },
    )
