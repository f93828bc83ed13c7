"""The differentiable forward computes what the defended model computes, and its gradients are right."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer import AudioLanguageModel
from sarsteer.attacks.gradient.forward import DifferentiableClip, frozen, with_clip
from sarsteer.audio import load_clip
from sarsteer.data.pairs import Pairs
from sarsteer.errors import AttackError
from sarsteer.models.layers import language_root
from sarsteer.steering.strength import ResolvedStrength, Strength
from tests.support.families import FAMILIES
from tests.support.tiny import conversation, random_vectors


def strengths(steering: sarsteer.Steering) -> dict[str, ResolvedStrength | None]:
    assert steering.gate is not None
    always = steering.resolve(Strength(alpha=0.3, gate=False))
    below, above = (steering.gate.with_limit(None).with_threshold(t) for t in (-20.0, 0.0))
    return {
        "none": None,
        "always": always,
        "open": always.with_gate(below),
        "gated": always.with_gate(above),
        "logistic": always.with_gate(steering.gate.with_mode("logistic", 0.7)),
        "distance": always.with_gate(steering.gate.with_limit(0.5)),
        "shadow": always.with_gate(steering.gate.with_mode("shadow")),
    }


@pytest.mark.parametrize("name", ["none", "always", "open", "gated", "logistic", "distance", "shadow"])
def test_the_hard_forward_equals_the_steered_model(
    embedded: AudioLanguageModel, steering: sarsteer.Steering, test_pairs: Pairs, name: str
) -> None:
    strength = strengths(steering)[name]
    item = test_pairs.harmful[1]
    samples = load_clip(item.audio).resampled(embedded.sampling_rate).samples
    turn = with_clip(item.turn(item.text or "Answer the question."), samples, embedded.sampling_rate)
    handle = None
    if strength is not None:
        from sarsteer.steering.handle import attach

        handle = attach(embedded.module, embedded.decoder_layers, strength)
    try:
        prompt = embedded.prepare([turn])[0]
        inputs = embedded.collate([prompt])
        out = embedded.module.generate(
            **inputs, max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        decisions = [] if handle is None else handle.decisions
    finally:
        if handle is not None:
            handle.remove()
    new = out.sequences[0, -len(out.logits) :]
    clip = DifferentiableClip(embedded, turn, len(samples))
    assert torch.equal(clip.input_ids.cpu(), prompt.input_ids.cpu())
    with torch.no_grad():
        ours = clip.forward(torch.from_numpy(samples), new, strength, None)
    theirs = torch.cat(out.logits)
    # float32: one forward of all tokens against a prefill and single steps
    torch.testing.assert_close(ours.logits, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    if decisions:
        assert ours.reading.score is not None
        assert float(ours.reading.score) == pytest.approx(decisions[0].score, abs=1e-3)
        if name != "shadow":
            assert ours.reading.opening == pytest.approx(decisions[0].opening, abs=1e-3)


@pytest.mark.parametrize("name", ["voxtral", "audio_flamingo_3"])
def test_other_families_are_steered_in_the_same_way(name: str) -> None:
    from sarsteer.steering.handle import attach

    module, processor = FAMILIES[name]()
    model = AudioLanguageModel(module.eval(), processor, name=name)
    turn = conversation(2, 0.7)
    strength = ResolvedStrength(0.5 * random_vectors(model), 1.0)
    with attach(model.module, model.decoder_layers, strength, model.probe), torch.no_grad():
        theirs = model.forward_base(model.collate(model.prepare([turn]))).last_hidden_state[0, -1]
        theirs = language_root(model.module).get_output_embeddings()(theirs)
    samples = torch.from_numpy(turn[0]["content"][0]["audio"])  # type: ignore[index]
    clip = DifferentiableClip(model, turn, len(samples))
    samples.requires_grad_(True)
    ours = clip.forward(samples, torch.tensor([5]), strength, None)
    torch.testing.assert_close(ours.logits[0], theirs, rtol=1e-4, atol=1e-4)
    ours.logits.square().sum().backward()
    assert samples.grad is not None
    assert torch.isfinite(samples.grad).all()
    assert samples.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def doubled(embedded: AudioLanguageModel) -> AudioLanguageModel:
    """The toy in float64, its norms too: transformers computes them in float32 whatever the model's dtype."""

    def norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed

    module = copy.deepcopy(embedded.module).double()
    for part in module.modules():
        if type(part).__name__ == "Qwen2RMSNorm":
            part.forward = types.MethodType(norm, part)
    return AudioLanguageModel(module, embedded.processor, name="doubled")


@pytest.mark.parametrize("name", ["none", "always", "gated", "distance"])
def test_gradients_equal_finite_differences(
    doubled: AudioLanguageModel, steering: sarsteer.Steering, test_pairs: Pairs, name: str
) -> None:
    """Through features, encoder, decoder, steering and gate, in float64."""
    strength = strengths(steering)[name]
    item = test_pairs.harmful[0]
    samples = torch.from_numpy(load_clip(item.audio).resampled(doubled.sampling_rate).samples).double()
    clip = DifferentiableClip(doubled, item.turn("Answer the question."), len(samples))
    answer = torch.tensor(doubled.tokenizer("Sure. To steal")["input_ids"])

    def loss(x: torch.Tensor) -> torch.Tensor:
        out = clip.forward(x, answer, strength, 0.5)
        total: torch.Tensor = torch.nn.functional.cross_entropy(out.logits, answer) + out.reading.activations[-1].mean()
        if out.reading.score is not None:
            assert out.reading.soft_opening is not None
            total = total + 0.3 * out.reading.score + out.reading.soft_opening
        return total

    with frozen(doubled):
        at = samples.clone().requires_grad_(True)
        value = loss(at)
        value.backward()
        assert value.dtype == torch.float64
        assert at.grad is not None
        direction = at.grad / at.grad.norm() + torch.randn_like(at) / len(at) ** 0.5
        step = 1e-7
        with torch.no_grad():
            slope = (loss(samples + step * direction) - loss(samples - step * direction)) / (2 * step)
    # central differences in float64: about 1e-9 / step of rounding through a deep network
    assert float(at.grad @ direction) == pytest.approx(float(slope), rel=1e-4, abs=1e-6)
    assert float(at.grad.norm()) > 0


def test_a_closed_gate_still_has_a_gradient(
    embedded: AudioLanguageModel, steering: sarsteer.Steering, test_pairs: Pairs
) -> None:
    assert steering.gate is not None
    strength = steering.resolve(Strength(alpha=0.3, gate=steering.gate.with_limit(None).with_threshold(0.9)))
    item = test_pairs.safe[0]
    samples = torch.from_numpy(load_clip(item.audio).resampled(embedded.sampling_rate).samples)
    clip = DifferentiableClip(embedded, item.turn("Answer the question."), len(samples))
    with frozen(embedded):
        samples.requires_grad_(True)
        out = clip.forward(samples, torch.tensor([1]), strength, 0.5)
        assert out.reading.opening == 0.0
        assert out.reading.soft_opening is not None
        assert 0 < float(out.reading.soft_opening) < 1
        out.reading.soft_opening.backward()
    assert samples.grad is not None
    assert float(samples.grad.abs().max()) > 0


def test_two_clips_are_refused(embedded: AudioLanguageModel) -> None:
    turn: Any = conversation(1)
    turn[0]["content"].append(dict(turn[0]["content"][0]))
    with pytest.raises(AttackError, match="2 clips"):
        DifferentiableClip(embedded, turn, 8_000)
