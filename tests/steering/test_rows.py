"""Rows of one batch that are steered differently: each is bit for bit what it is in a batch of its own strength."""

from __future__ import annotations

import threading

import pytest
import torch

from sarsteer import AudioLanguageModel
from sarsteer.errors import SteeringError
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.hooks import DELTA
from sarsteer.steering.installation import Installation
from sarsteer.steering.strength import ResolvedStrength
from tests.support.tiny import conversation, random_vectors, tiny_qwen2_audio

TURNS = [conversation(seed, seconds) for seed, seconds in ((1, 0.3), (2, 0.8), (3, 0.5))]
ALPHAS = (0.7, 0.0, -0.2)
LAYER = 1


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest) -> AudioLanguageModel:
    model = tiny_qwen2_audio(seed=0)
    model.module.to(request.param)
    return model


def gate_between(model: AudioLanguageModel) -> Gate:
    """A gate that is open for some of the turns."""
    weight = torch.ones(model.hidden_size)
    scores = sorted((model.last_token_activations(TURNS)[:, LAYER] @ weight).tolist())
    return Gate(LAYER, weight, 0.0, threshold=(scores[0] + scores[1]) / 2)


@torch.no_grad()
def logits(model: AudioLanguageModel) -> torch.Tensor:
    inputs = model.collate(model.prepare(TURNS))
    inputs.pop("input_ids")
    return model.module(**inputs).logits[:, -1]


def strengths_of(model: AudioLanguageModel, gate: Gate | None) -> list[ResolvedStrength]:
    vectors = random_vectors(model)
    first, *others = (ResolvedStrength(vectors, alpha, gate) for alpha in ALPHAS)
    return [first, *others[:-1], ResolvedStrength(vectors.flip(0), ALPHAS[-1], gate)]


def attached(model: AudioLanguageModel, strength: ResolvedStrength) -> SteeringHandle:
    return attach(model.module, model.decoder_layers, strength)


@pytest.mark.parametrize("gated", [False, True], ids=["no gate", "gate"])
def test_each_row_is_what_its_own_strength_makes_of_it(model: AudioLanguageModel, gated: bool) -> None:
    gate = gate_between(model) if gated else None
    strengths = strengths_of(model, gate)
    with attached(model, strengths[0]) as handle:
        handle.prove_rows()
        alike = logits(model)
        expected, decisions = [], []
        for row, strength in enumerate(strengths):
            handle.apply(strength)
            expected.append(logits(model)[row])
            decisions += handle.decisions[row : row + 1]
        handle.apply(strengths[0])
        buffers = [getattr(layer, DELTA) for layer in model.decoder_layers]
        with handle.by_row() as rows:
            rows.use(strengths)
            assert torch.equal(logits(model), torch.stack(expected))
            assert handle.decisions == decisions
            assert rows.holds
            getattr(model.decoder_layers[2], DELTA)[1] += 1  # something else changes the model
            assert not rows.holds
        assert torch.equal(logits(model), alike)
        assert all(getattr(layer, DELTA) is one for layer, one in zip(model.decoder_layers, buffers, strict=True))
    if gated:
        assert {one.opening for one in decisions} == {0.0, 1.0}
        assert [one.strength for one in decisions] == [
            alpha * one.opening for alpha, one in zip(ALPHAS, decisions, strict=True)
        ]


def test_rows_with_one_strength_write_nothing(model: AudioLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    strength, same = (ResolvedStrength(random_vectors(model), ALPHAS[0]) for _ in range(2))
    with attached(model, strength) as handle, handle.by_row() as rows:
        expected = logits(model)
        write = Installation.write
        monkeypatch.setattr(Installation, "write", lambda self, deltas: pytest.fail("written"))
        rows.use([strength] * 3)
        assert torch.equal(logits(model), expected)
        monkeypatch.setattr(Installation, "write", write)
        rows.use([strength, same, strength])  # equal numbers need no proof of rows
        assert torch.equal(logits(model), expected)
        assert all(getattr(layer, DELTA).ndim == 1 for layer in model.decoder_layers)


def test_what_is_not_proven_or_does_not_fit_is_refused(model: AudioLanguageModel) -> None:
    strengths = strengths_of(model, None)
    with attached(model, strengths[0]) as handle:
        with handle.by_row() as rows:
            with pytest.raises(SteeringError, match="were not proven"):
                rows.use(strengths)
            assert rows.holds
            with pytest.raises(SteeringError, match="steers its rows already"), handle.by_row():
                pass
        handle.prove_rows()
        with handle.by_row() as rows:
            with pytest.raises(SteeringError, match="different gates"):
                rows.use([strengths[0], strengths[1].with_gate(gate_between(tiny_qwen2_audio(seed=0)))])
            with pytest.raises(SteeringError, match="use a steering of this model"):
                rows.use([strengths[0], strengths[1].with_vectors(strengths[1].vectors[:, :-1])])
            assert rows.holds
        handle.remove()
        with pytest.raises(SteeringError, match="was removed"), handle.by_row():
            pass


def test_a_row_that_is_steered_by_another_s_vectors_fails_the_proof(
    model: AudioLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Installation.write
    strength = strengths_of(model, gate_between(model))[0]
    with attached(model, strength) as handle:
        expected = logits(model)
        swapped = lambda self, deltas: write(self, deltas if deltas.ndim == 2 else deltas.flip(1))  # noqa: E731
        monkeypatch.setattr(Installation, "write", swapped)
        with pytest.raises(SteeringError, match="did not steer exactly"):
            handle.prove_rows()
        assert torch.equal(logits(model), expected)
        with handle.by_row() as rows, pytest.raises(SteeringError, match="were not proven"):
            rows.use([strength, strength.with_alpha(0.0)])


def test_other_threads_wait_for_their_own_call(model: AudioLanguageModel) -> None:
    """Their rows are not those of this call."""
    strength = ResolvedStrength(random_vectors(model), ALPHAS[0])
    errors: list[BaseException] = []

    def answer() -> None:
        try:
            model.generate(TURNS[:1], max_new_tokens=1)
        except SteeringError as error:
            errors.append(error)

    with attached(model, strength) as handle:
        with handle.by_row():
            other = threading.Thread(target=answer)
            other.start()
            other.join()
            assert "is answering another request" in str(errors.pop())
        answer()
        assert not errors
