"""One function turns a strength into what is added to a model, and a handle applies it in one step."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sarsteer
from sarsteer import AudioLanguageModel, Steering
from sarsteer.errors import SteeringError
from sarsteer.steering.file_format import FORMAT_VERSION, GATED_VERSION
from sarsteer.steering.gate import hooks as gate_hooks
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.installation import Installation
from sarsteer.steering.strength import ResolvedStrength, Strength
from tests.steering.test_artifact import small_steering
from tests.support.reference import steered_by_hand
from tests.support.tiny import conversation, random_vectors, tiny_qwen2_audio

TURNS = [conversation(seed, seconds) for seed, seconds in ((1, 0.3), (2, 0.8))]


@pytest.fixture(scope="module")
def model() -> AudioLanguageModel:
    return tiny_qwen2_audio(seed=0)


@pytest.fixture(scope="module")
def small(model: AudioLanguageModel) -> Steering:
    return small_steering(model)


@pytest.fixture
def gate() -> Gate:
    """Open for every request."""
    return Gate(1, torch.ones(32), 0.0, -1e6)


@torch.no_grad()
def logits(model: AudioLanguageModel) -> torch.Tensor:
    inputs = model.collate(model.prepare(TURNS))
    inputs.pop("input_ids")
    result: torch.Tensor = model.module(**inputs).logits
    return result


# ---- resolving -------------------------------------------------------------------------------------------------------


@given(
    alpha=st.floats(-2, 2),
    k=st.integers(0, 5),
    lambda_=st.floats(-2, 2),
    weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
)
@settings(deadline=None)
def test_resolve_equals_a_float64_reference(
    small: Steering, alpha: float, k: int, lambda_: float, weights: list[float]
) -> None:
    chosen = small.resolve(Strength(alpha, k, lambda_, tuple(weights)))
    r, u = small.refusal.double().numpy(), small.safe_basis[:, :k].double().numpy()
    inside = np.einsum("lkd,lk->ld", u, np.einsum("lkd,ld->lk", u, r))
    expected = np.array(weights)[:, None] * (r - lambda_ * inside)
    # float32 rounding of values up to about 20
    np.testing.assert_allclose(chosen.vectors.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(chosen.deltas.numpy(), alpha * expected, atol=1e-5)
    assert (chosen.alpha, chosen.k, chosen.lambda_, chosen.layer_weights) == (alpha, k, lambda_, tuple(weights))


def test_every_value_left_out_is_the_artifact_s_default(small: Steering) -> None:
    tuned = small.with_defaults(alpha=0.4, k=2, lambda_=0.5, layer_weights=[0, 1, 1, 0.5])
    chosen = tuned.resolve()
    assert (chosen.alpha, chosen.k, chosen.lambda_, chosen.layer_weights) == (0.4, 2, 0.5, (0, 1, 1, 0.5))
    assert torch.equal(chosen.vectors, tuned.vectors())
    assert torch.equal(chosen.vectors, small.vectors(2, 0.5, [0, 1, 1, 0.5]))
    assert tuned.resolve(Strength(k=3)).k == 3
    assert tuned.resolve(Strength(k=3)).layer_weights == (0, 1, 1, 0.5)
    assert [row.weight for row in tuned.report()] == [0, 1, 1, 0.5]


def test_gate_choices(steering: Steering) -> None:
    assert steering.resolve().gate is None
    assert steering.resolve(Strength(gate=True)).gate is steering.gate
    logistic = steering.resolve(Strength(gate="logistic")).gate
    assert logistic is not None
    assert steering.gate is not None
    assert (logistic.mode, logistic.threshold) == ("logistic", steering.gate.threshold)
    gated = steering.with_defaults(gate=True)
    assert gated.resolve().gate is gated.gate
    assert gated.resolve(Strength(gate=False)).gate is None
    above = gated.resolve().deltas
    assert not above[: steering.gate.layer + 1].any()
    every = gated.resolve(Strength(gate=False)).deltas
    assert torch.equal(above[steering.gate.layer + 1 :], every[steering.gate.layer + 1 :])


def test_the_digest_covers_vectors_and_gate_but_not_alpha(small: Steering, gate: Gate) -> None:
    chosen = small.resolve()
    assert chosen.with_alpha(0.7).digest == chosen.digest
    assert len({chosen.digest, chosen.with_gate(gate).digest, chosen.with_vectors(chosen.vectors * 2).digest}) == 3


def test_settings_are_json(small: Steering, gate: Gate) -> None:
    assert small.resolve(Strength(0.1, 2)).settings == {"alpha": 0.1, "k": 2, "lambda": 1.0}
    weighted = small.resolve(Strength(layer_weights=(0, 1, 1, 1), gate=gate)).settings
    assert json.loads(json.dumps(weighted)) == weighted
    assert weighted["layer_weights"] == [0, 1, 1, 1]
    assert weighted["gate"]["layer"] == 1


@pytest.mark.parametrize(
    ("strength", "match"),
    [
        (Strength(alpha=math.nan), "alpha must be a finite number"),
        (Strength(alpha=True), "alpha must be a finite number"),
        (Strength(k=-1), "whole number"),
        (Strength(k=6), "above the rank"),
        (Strength(lambda_=math.inf), "lambda must be a finite number"),
        (Strength(layer_weights=(1.0, 1.0)), "4 finite numbers"),
        (Strength(layer_weights=(1.0, 1.0, math.nan, 1.0)), "4 finite numbers"),
        (Strength(gate=True), "has no gate"),
        (Strength(gate="hard"), "has no gate"),
        (Strength(gate=Gate(3, torch.ones(32), 0.0, 0.0)), "no layer above it"),
        (Strength(gate=Gate(1, torch.ones(31), 0.0, 0.0)), "width 31"),
    ],
    ids=str,
)
def test_invalid_strengths(small: Steering, strength: Strength, match: str) -> None:
    with pytest.raises(SteeringError, match=match):
        small.resolve(strength)


# ---- layer weights and the closed form ------------------------------------------------------------------------------


def test_weights_scale_each_layer_and_are_stored_in_the_file(steering: Steering, tmp_path: Path) -> None:
    depth = len(steering.refusal)
    weights = [0.0, 0.5, *[1.0] * (depth - 2)]
    plain, weighted = steering.vectors(3, 0.7), steering.vectors(3, 0.7, weights)
    assert torch.equal(weighted, plain * torch.tensor(weights)[:, None])
    assert torch.equal(steering.vectors(3, 0.7, [1.0] * depth), plain)  # to the bit
    chosen = steering.with_defaults(alpha=0.2, k=3, lambda_=0.7, layer_weights=weights)
    loaded = Steering.load(chosen.save(tmp_path / "weighted.safetensors"))
    assert loaded.default_layer_weights == tuple(weights)
    assert torch.equal(loaded.vectors(), weighted)
    assert loaded.digest == chosen.digest
    assert loaded.with_defaults(alpha=0.1).default_layer_weights == tuple(weights)
    # a reader that knows no weights would steer every layer, so it must refuse the file
    ungated = steering.with_gate(None)
    assert ungated.metadata["format_version"] == FORMAT_VERSION
    only_weights = ungated.with_defaults(layer_weights=weights)
    assert only_weights.metadata["format_version"] == GATED_VERSION
    assert Steering.load(only_weights.save(tmp_path / "weights.safetensors")).gate is None


def test_attaching_uses_the_default_weights(embedded: sarsteer.AudioLanguageModel, steering: Steering) -> None:
    weights = [0.0] * 5 + [0.5] * (len(steering.refusal) - 5)
    with steering.with_defaults(layer_weights=weights).on(embedded, alpha=0.3, k=0) as handle:
        assert torch.equal(handle.vectors, steering.refusal * torch.tensor(weights)[:, None])


@pytest.mark.parametrize("weights", [[1.0], [float("nan")] * 8, [float("inf")] * 8])
def test_invalid_weights_are_refused(steering: Steering, weights: list[float]) -> None:
    with pytest.raises(SteeringError, match="one per decoder layer"):
        steering.vectors(0, 1.0, weights)
    with pytest.raises(SteeringError, match="one per decoder layer"):
        steering.with_defaults(layer_weights=weights)


def test_an_unsteered_layer_has_no_strength(steering: Steering) -> None:
    rows = steering.with_defaults(layer_weights=[0.0] * 7 + [1.0]).report(0.1, 2)
    assert [row.relative_strength == 0 for row in rows] == [True] * 7 + [False]
    assert [row.kept for row in rows] == [row.kept for row in steering.report(0.1, 2)]


def test_the_closed_form_has_the_reported_numbers(steering: Steering) -> None:
    suggestion = steering.suggest()
    rows = steering.report(suggestion.alpha, suggestion.k, 1.0)
    strengths = torch.tensor([row.relative_strength for row in rows], dtype=torch.float64)
    assert float(strengths.quantile(0.5)) == pytest.approx(suggestion.relative_strength, rel=0.01)  # α has three digits
    assert len(rows) * suggestion.relative_strength == pytest.approx(0.56)
    explained = torch.tensor([row.explained for row in rows], dtype=torch.float64).quantile(0.5)
    assert float(explained) == pytest.approx(suggestion.explained)
    assert suggestion.kept >= 0.5
    assert suggestion.k == 0 or suggestion.explained >= 0.5 or suggestion.k < steering.max_k
    zero = replace(steering, refusal=torch.zeros_like(steering.refusal))
    assert zero.suggest().alpha == 0


# ---- attaching -------------------------------------------------------------------------------------------------------


def test_attach_with_layer_weights(model: AudioLanguageModel, small: Steering) -> None:
    weights = [0.0, 1.0, 0.5, 0.0]
    with steered_by_hand(model.decoder_layers, small.vectors(2) * torch.tensor(weights)[:, None], 0.8):
        expected = logits(model)
    with small.on(model, 0.8, 2, layer_weights=weights) as handle:
        assert handle.strength.layer_weights == tuple(weights)
        assert torch.equal(logits(model), expected)
    tuned = small.with_defaults(alpha=0.8, k=2, layer_weights=weights)
    with tuned.on(model):
        assert torch.equal(logits(model), expected)
    with tuned.on(model, layer_weights=[1.0] * 4):
        assert not torch.equal(logits(model), expected)
    with pytest.raises(SteeringError, match="4 finite numbers"):
        small.attach(model, layer_weights=[1.0])


def test_apply_changes_vectors_alpha_and_gate_in_one_step(model: AudioLanguageModel, gate: Gate) -> None:
    first, second = random_vectors(model), random_vectors(model).flip(1)
    upper = second.clone()
    upper[: gate.layer + 1] = 0
    with steered_by_hand(model.decoder_layers, upper, 0.4):
        gated = logits(model)
    with steered_by_hand(model.decoder_layers, second, 0.4):
        ungated = logits(model)
    with attach(model.module, model.decoder_layers, ResolvedStrength(first, 0.7)) as handle:
        for strength, expected in (
            (ResolvedStrength(second, 0.4, gate), gated),  # new hooks
            (ResolvedStrength(second, 0.4), ungated),  # in place
            (ResolvedStrength(second, 0.4, gate), gated),
        ):
            handle.apply(strength)
            assert torch.equal(logits(model), expected)
            assert handle.strength is strength


def test_suspended_steering_adds_nothing(model: AudioLanguageModel, gate: Gate) -> None:
    plain, vectors = logits(model), random_vectors(model)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, 0.7, gate)) as handle:
        steered, strength = logits(model), handle.strength
        handle.suspend()
        assert torch.equal(logits(model), plain)
        assert handle.decisions == []
        handle.apply(strength)
        assert torch.equal(logits(model), steered)


def failing_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next write of the buffers fails after one layer."""
    write = Installation.write

    def fail(self: Installation, deltas: torch.Tensor) -> None:
        monkeypatch.setattr(Installation, "write", write)
        self._layers[0]._sarsteer_delta.copy_(deltas[0])
        raise RuntimeError("lost")

    monkeypatch.setattr(Installation, "write", fail)


@pytest.mark.parametrize("gated_before", [False, True])
@pytest.mark.parametrize("failure", ["shape", "proof", "write"])
def test_a_failed_apply_leaves_the_previous_strength_in_force(
    model: AudioLanguageModel, gate: Gate, monkeypatch: pytest.MonkeyPatch, gated_before: bool, failure: str
) -> None:
    plain = logits(model)
    before = ResolvedStrength(random_vectors(model), 0.7, gate if gated_before else None)
    other = random_vectors(model).flip(1)
    with attach(model.module, model.decoder_layers, before) as handle:
        steered = logits(model)
        if failure == "shape":
            with pytest.raises(SteeringError, match="shape"):
                handle.apply(ResolvedStrength(other[:, :-1], 0.2))
        elif failure == "write":
            failing_write(monkeypatch)
            with pytest.raises(RuntimeError, match="lost"):
                handle.apply(ResolvedStrength(other, 0.2))
        else:
            decide = gate_hooks.decide

            def only_at_layer_1(*args: Any) -> None:
                """The hook works for the previous gate only."""
                if getattr(args[0], gate_hooks.STATE).layer == 1:
                    decide(*args)

            monkeypatch.setattr(gate_hooks, "decide", only_at_layer_1)
            with pytest.raises(SteeringError, match="did not score"):
                handle.apply(ResolvedStrength(other, 0.2, Gate(0, torch.ones(32), 0.0, 0.0)))
        assert handle.attached
        assert handle.strength is before
        assert torch.equal(logits(model), steered)
        assert len(handle.decisions) == (len(TURNS) if gated_before else 0)
        handle.alpha = 0.2
        assert not torch.equal(logits(model), steered)
    assert torch.equal(logits(model), plain)


def test_a_removed_steering_cannot_be_applied(model: AudioLanguageModel) -> None:
    strength = ResolvedStrength(random_vectors(model), 0.7)
    handle: SteeringHandle = attach(model.module, model.decoder_layers, strength)
    handle.remove()
    for change in (lambda: handle.apply(strength), handle.suspend):
        with pytest.raises(SteeringError, match="was removed"):
            change()
