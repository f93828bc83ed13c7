"""Configurations, the search space, and gates at several layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("optuna")

import optuna

from sarsteer.steering.artifact import Steering
from sarsteer.steering.strength import describe_layers
from sarsteer.tuning.config import SpaceConfig
from sarsteer.tuning.configuration import Configuration, above_gate, own_gate
from sarsteer.tuning.gates import fit_gates, gate_layers, refit
from sarsteer.tuning.space import Space


@pytest.mark.parametrize("layers", ["all", "range", "weights"])
def test_the_parameters_of_a_uniform_configuration_draw_it(steering: Steering, layers: Any) -> None:
    space = Space(steering, SpaceConfig(layers=layers), own_gate(steering))
    for configuration in (
        Configuration.uniform(steering, 0.12, 5),
        Configuration.uniform(steering, 0.08, 0),
        Configuration.uniform(steering, 0.3, 3, 0.5, 0.05),
    ):
        drawn = space.draw(optuna.trial.FixedTrial(space.params(configuration)))  # type: ignore[arg-type]
        assert drawn == configuration


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["all", "range", "weights"]))
def test_every_drawn_configuration_steers(steering: Steering, seed: int, layers: Any) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    config = SpaceConfig(layers=layers)
    space = Space(steering, config, own_gate(steering))
    configuration = space.draw(study.ask())
    strength = configuration.resolve(steering, space.gates)
    assert strength.vectors.abs().sum() > 0
    push = strength.alpha * space.push_at_one(strength.k, strength.lambda_, strength.layer_weights)
    assert config.push[0] * 0.99 <= push <= config.push[1] * 1.01  # α has three digits
    assert (strength.gate is None) == (configuration.gate is None)
    if strength.gate is not None:
        assert all(weight == 0 for weight in strength.layer_weights[: strength.gate.layer + 1])
    assert Configuration.from_json(configuration.to_json()) == configuration
    tuned = configuration.as_defaults(steering).resolve()
    assert (tuned.alpha, tuned.k, tuned.lambda_) == (strength.alpha, strength.k, strength.lambda_)
    assert (tuned.gate is None) == (strength.gate is None)
    assert torch.equal(tuned.vectors, strength.vectors)


def test_a_narrower_space(steering: Steering) -> None:
    config = SpaceConfig(push=(0.05, 0.06), lambda_=(1.0, 1.0), gate_fpr=(0.2, 0.2))
    space = Space(steering, config, own_gate(steering))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(8):
        configuration = space.draw(study.ask())
        strength = steering.resolve(configuration.strength)
        push = strength.alpha * space.push_at_one(strength.k, strength.lambda_, strength.layer_weights)
        assert 0.049 <= push <= 0.061
        assert strength.lambda_ == 1.0
        assert configuration.gate is None or configuration.gate.target_fpr == 0.2


def test_layers_are_described() -> None:
    assert describe_layers((1.0,) * 4) == "all layers"
    assert describe_layers((0.0, 1.0, 1.0, 0.0)) == "layers 1-2"
    assert describe_layers((0.0, 0.0, 1.0, 0.0)) == "layer 2"
    assert describe_layers((0.5, 1.0)) == "layers × 0.5 1"


def test_a_range_below_the_gate_becomes_the_layers_above_it() -> None:
    assert above_gate((1.0, 1.0, 0, 0, 0, 0, 0, 0), 3) == (0, 0, 0, 0, 1.0, 1.0, 1.0, 1.0)


def test_gates_leave_layers_to_steer() -> None:
    assert gate_layers(8) == list(range(7))
    assert gate_layers(2) == [0]
    assert gate_layers(1) == []
    assert gate_layers(8, 2) == [0, 6]
    many = gate_layers(32)
    assert (len(many), many[0], many[-1]) == (8, 0, 30)


def test_a_gate_that_changed_in_kind_is_noted() -> None:
    """Real fits: activations that a direction separates, and some that nothing separates."""
    rng = torch.Generator().manual_seed(0)
    harmful, safe = torch.randn(30, 3, 12, generator=rng), torch.randn(30, 3, 12, generator=rng)
    separated = (harmful[:15] + 3, safe[:15])
    measured = fit_gates(separated, [1])[1]
    gate, notes = refit(measured, (harmful + 3, safe))
    assert (gate.layer, gate.metadata["pairs"]) == (1, 30)
    assert notes == []
    gate, (note,) = refit(measured, (harmful, safe))
    assert gate is measured
    assert "the file has the measured one, fitted on 15 of them" in note
    other = replace(measured, metadata={**measured.metadata, "method": "logistic"})
    gate, (note,) = refit(other, (harmful + 3, safe))
    assert gate.metadata["method"] != "logistic"
    assert "uses another detector" in note
    assert "logistic was measured" in note
