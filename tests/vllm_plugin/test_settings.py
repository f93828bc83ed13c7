"""Settings from the environment, and their transport to the workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import sarsteer
from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.steering.strength import Strength
from sarsteer.vllm import settings
from tests.support.vllm_parts import server_settings


def test_without_variables_nothing_is_configured() -> None:
    assert settings.from_environment({}) is None
    assert settings.from_environment({"SARSTEER_STEERING": " "}) is None
    assert settings.settings_of(SimpleNamespace(additional_config={})) is None


def test_settings_survive_the_transport_to_workers(steering_file: Path) -> None:
    env = {
        "SARSTEER_STEERING": f"a={steering_file},b={steering_file}",
        "SARSTEER_ALPHA": "0.2",
        "SARSTEER_K": "3",
        "SARSTEER_LAMBDA": "0.5",
        "SARSTEER_ALLOW_OVERRIDE": "0.1:0.3",
        "SARSTEER_REFUSED_OVERRIDE": "ignore",
        "SARSTEER_ALLOW_REQUEST": "logit_bias,/v1/completions",
    }
    read = settings.from_environment(env)
    assert read is not None
    sent = json.loads(json.dumps({settings.KEY: read.to_config()}))
    assert settings.settings_of(SimpleNamespace(additional_config=sent)) == read
    assert [(s.name, s.alpha, s.k, s.lambda_) for s in read.sets] == [("a", 0.2, 3, 0.5), ("b", 0.2, 3, 0.5)]
    assert read.bounds == (0.1, 0.3)
    assert read.ignore_refused


def test_strengths_are_the_files_defaults(steering_file: Path, steering: sarsteer.Steering) -> None:
    read = settings.from_environment({"SARSTEER_STEERING": str(steering_file)})
    assert read is not None
    assert (read.sets[0].alpha, read.sets[0].k, read.sets[0].lambda_) == steering.defaults
    other = settings.from_environment({"SARSTEER_STEERING": str(steering_file), "SARSTEER_K": "1"})
    assert other is not None
    assert other.digest != read.digest, "another ablation has other vectors"


def test_a_set_is_what_the_artifact_resolves(
    steering_file: Path, gated_file: Path, steering: sarsteer.Steering
) -> None:
    """What is served is what was evaluated: the same vectors, gate and digest."""
    weights = [0.5] * len(steering.refusal)
    weighted = steering.with_defaults(layer_weights=weights, gate=True).save(
        steering_file.with_name("weighted.safetensors")
    )
    for path in (steering_file, gated_file, weighted):
        read = settings.from_environment({"SARSTEER_STEERING": str(path), "SARSTEER_K": "3", "SARSTEER_LAMBDA": "0.5"})
        assert read is not None
        (vector_set,) = read.sets
        artifact = sarsteer.Steering.load(path)
        resolved = artifact.resolve(Strength(k=3, lambda_=0.5))
        assert vector_set.digest == resolved.digest
        assert artifact.resolve(vector_set.strength).digest == resolved.digest, "a worker computes it from the set"
        assert (vector_set.alpha, vector_set.k, vector_set.lambda_) == (resolved.alpha, 3, 0.5)


def test_the_operator_decides_whether_requests_are_gated(
    gated_file: Path, steering: sarsteer.Steering, tmp_path: Path
) -> None:
    def vector_set(file: Path, gate: str = "") -> settings.VectorSet:
        read = settings.from_environment({"SARSTEER_STEERING": str(file), "SARSTEER_GATE": gate})
        assert read is not None
        return read.sets[0]

    assert steering.gate is not None
    bare = steering.save(tmp_path / "bare.safetensors")
    assert vector_set(gated_file).gate_layer == steering.gate.layer
    assert vector_set(gated_file, "off").gate_layer is None
    assert vector_set(bare).gate_layer is None
    assert vector_set(bare, "on") == replace(vector_set(gated_file), source=str(bare))
    assert vector_set(bare).digest != vector_set(gated_file).digest, "gated and ungated requests share no blocks"
    none = steering.with_gate(None).save(tmp_path / "none.safetensors")
    with pytest.raises(SteeringError, match=r"none\.safetensors: this steering has no gate"):
        vector_set(none, "on")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SARSTEER_STEERING": "/nowhere/x.safetensors"}, "no such steering file"),
        ({"SARSTEER_STEERING": "a={file},a={file}"}, "two files have the same name"),
        ({"SARSTEER_STEERING": "a=,b={file}"}, "write FILE"),
        ({"SARSTEER_ALPHA": "strong"}, "SARSTEER_ALPHA=strong: must be a finite number"),
        ({"SARSTEER_ALPHA": "inf"}, "finite"),
        ({"SARSTEER_K": "1.5"}, "whole number"),
        ({"SARSTEER_K": "9999"}, "above the rank"),
        ({"SARSTEER_ALLOW_OVERRIDE": "0.1"}, "lowest and highest"),
        ({"SARSTEER_ALLOW_OVERRIDE": "0.3:0.1"}, "lowest and highest"),
        ({"SARSTEER_REFUSED_OVERRIDE": "maybe"}, "must be reject or ignore"),
        ({"SARSTEER_ALLOW_OTHER_MODEL": "yes"}, "must be 0 or 1"),
        ({"SARSTEER_ALLOW_REQUEST": "echo"}, "SARSTEER_ALLOW_REQUEST=echo: echo cannot be allowed"),
        ({"SARSTEER_GATE": "yes"}, "SARSTEER_GATE=yes: must be off, on or shadow"),
    ],
)
def test_a_bad_setting_is_named(steering_file: Path, change: dict[str, str], message: str) -> None:
    env = {
        "SARSTEER_STEERING": str(steering_file),
        **{key: value.format(file=steering_file) for key, value in change.items()},
    }
    with pytest.raises((SteeringError, ArtifactError), match=message):
        settings.from_environment(env)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        settings.from_environment({"SARSTEER_STEERING": str(path)})


def test_a_model_of_another_shape_is_refused() -> None:
    configured = server_settings()
    configured.check_shape("a-model", 4, 8)
    with pytest.raises(
        ArtifactError, match=r"default\.safetensors: has 4 layers of width 8, a-model has 28 of width 9"
    ):
        configured.check_shape("a-model", 28, 9)
