"""The package equals an independent float64 reference, and hooks written by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import sarsteer
from sarsteer.data.pairs import Pairs
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from tests.support import reference
from tests.support.tiny import conversation

N = 12


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest error of any layer's vector, relative to the vector's norm."""
    return float((np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)).max())


@pytest.fixture(scope="module", params=["embedded", "tiny"])
def model(request: pytest.FixtureRequest) -> sarsteer.AudioLanguageModel:
    return request.getfixturevalue(request.param)


@pytest.mark.slow
def test_vectors_agree_with_the_float64_reference(model: sarsteer.AudioLanguageModel, calibration_pairs: Pairs) -> None:
    pairs = calibration_pairs[:N]
    steering = sarsteer.calibrate(model, pairs, batch_size=5)  # batches of unequal size and length
    r, safe = reference.refusal_and_safe(
        copy.deepcopy(model.module),
        model.processor,
        [reference.read(item.audio) for item in pairs.harmful],
        [reference.read(item.audio) for item in pairs.safe],
        INSTRUCTION,
        REFUSAL_PROMPT,
    )
    # float32 forwards differ from float64 ones by about 1e-6 of the activations; the mean difference r is several
    # times shorter than they are, so 1e-4 of its norm leaves room for that and for nothing else.
    assert relative(steering.refusal.double().numpy(), r) < 1e-4
    for k, lambda_ in ((0, 1.0), (1, 1.0), (4, 0.5), (N - 2, 1.0)):
        ours = steering.vectors(k=k, lambda_=lambda_).double().numpy()
        assert relative(ours, reference.ablated(r, safe, k, lambda_)) < 1e-4
    norms = np.stack([np.linalg.svd(safe[:, i] - safe[:, i].mean(0))[1] for i in range(safe.shape[1])])
    np.testing.assert_allclose(steering.singular_values, norms[:, : steering.max_k], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_steering_equals_hooks_written_by_hand(
    model: sarsteer.AudioLanguageModel, steering: sarsteer.Steering, test_pairs: Pairs, alpha: float
) -> None:
    """Identical tokens, one by one and batched, through transformers' processor and model."""
    if model.name == "sarsteer-tiny":
        vectors = steering.vectors(k=2)
        paths = [item.audio for item in (*test_pairs.harmful[:4], *test_pairs.safe[:4])]
        clips = [reference.read(path) for path in paths]
    else:
        vectors = torch.randn(len(model.decoder_layers), model.hidden_size, generator=torch.Generator().manual_seed(1))
        clips = [conversation(seed, 0.3 + 0.2 * seed)[0]["content"][0]["audio"] for seed in range(6)]
    turns = [sarsteer.user_turn(sarsteer.audio.Clip(clip, 16_000, "clip"), INSTRUCTION) for clip in clips]

    def ours(batch_size: int) -> list[str]:
        from sarsteer.steering.handle import attach
        from sarsteer.steering.strength import ResolvedStrength

        with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, alpha)):
            return model.generate(turns, max_new_tokens=24, batch_size=batch_size)

    by_hand = []
    with reference.steered_by_hand(model.decoder_layers, vectors, alpha), torch.no_grad():
        for clip in clips:
            inputs = reference.prompt_inputs(model.processor, clip, INSTRUCTION)
            inputs.pop("num_audio_tokens", None)
            out = model.module.generate(**inputs, max_new_tokens=24, do_sample=False)
            by_hand.append(model.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    by_hand = [text.strip() for text in by_hand]
    assert ours(1) == by_hand
    assert ours(len(turns)) == by_hand
    assert model.generate(turns, max_new_tokens=24) != by_hand, "steering changed nothing: the test shows nothing"
