"""The surrogate against generation under the real hooks, on the embedded model's speech."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs
from sarsteer.judges import parse_judge
from sarsteer.prompts import INSTRUCTION
from sarsteer.steering.strength import Strength
from sarsteer.tuning.configuration import Configuration, GateReference, own_gate
from sarsteer.tuning.continuations import Continuations
from sarsteer.tuning.gates import fit_gates, last_tokens
from sarsteer.tuning.layer_study import study_layers
from sarsteer.tuning.measure import Measurer
from sarsteer.tuning.references import answer, prepare_requests
from sarsteer.tuning.refusal_tokens import refusal_tokens
from sarsteer.tuning.space import Space
from sarsteer.tuning.surrogate import Surrogate, prepare

N = 12
"""Number of tuning pairs; the fixture was calibrated on the first 24 pairs."""


@pytest.fixture(scope="module")
def pairs(calibration_pairs: Pairs) -> Pairs:
    return calibration_pairs[24 : 24 + N]


@pytest.fixture(scope="module")
def surrogate(embedded: sarsteer.AudioLanguageModel, steering: Steering, pairs: Pairs) -> Surrogate:
    return prepare(embedded, steering, pairs, parse_judge("embedded"), max_new_tokens=32)


@pytest.mark.parametrize("gated", [False, True])
def test_continuations_equal_generation_under_the_hooks(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, pairs: Pairs, gated: bool
) -> None:
    """The logits of every step of each answer, for prompts of different lengths, with and without a gate."""
    prompts = embedded.prepare([item.turn(INSTRUCTION) for item in (*pairs.harmful[:3], *pairs.safe[:3])])
    configuration = Configuration.uniform(steering, 0.12, 3, 1.0, 0.2 if gated else None)
    strength = configuration.resolve(steering, own_gate(steering))
    answers, logits = [], []
    with configuration.as_defaults(steering).on(embedded):
        for prompt in prompts:
            out = embedded.module.generate(
                **embedded.collate([prompt]), max_new_tokens=8, min_new_tokens=8, do_sample=False, output_logits=True,
                return_dict_in_generate=True, temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
            answers.append(out.sequences[0, -8:])
            logits.append(torch.cat(out.logits))
    factors = None
    if strength.gate is not None:
        factors = strength.gate.strength(embedded.last_token_activations(prompts))
        assert 0 < float(factors.sum()) < len(prompts), "there must be open and closed rows"
    continuations = Continuations(embedded, prompts, answers, batch_size=4)
    for _ in range(2):  # the second time from the cached prefixes
        for rows, computed in continuations.run(strength.deltas, factors):
            for place, row in enumerate(rows):
                # float32 sums in another order: a batch of four and single rows, one forward and eight
                torch.testing.assert_close(computed[place, :8], logits[row], rtol=1e-3, atol=2e-3)


def test_unsteered_texts_do_not_break(surrogate: Surrogate) -> None:
    scores = surrogate.score(None)
    assert scores.broken == 0
    assert scores.over_refusal < 0.1
    assert scores.asr > 0.8


def test_the_refusal_tokens_of_the_embedded_model(surrogate: Surrogate, embedded: sarsteer.AudioLanguageModel) -> None:
    """It refuses with one sentence: "I am sorry, but I cannot assist with that."."""
    assert [embedded.tokenizer.decode([token]) for token in surrogate.tokens.ids] == ["I"]
    assert surrogate.tokens.usable


@pytest.mark.slow
def test_the_surrogate_ranks_configurations_like_generation(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, pairs: Pairs, surrogate: Surrogate
) -> None:
    requests = prepare_requests(embedded, pairs, INSTRUCTION, "I cannot assist with that.", 16, lambda *_: None)
    weak, strong = Configuration.uniform(steering, 0.05, 3), Configuration.uniform(steering, 0.2, 3)
    gated = Configuration.uniform(steering, 0.2, 3, 1.0, 0.05)
    with Measurer(
        embedded, Space(steering, gates=own_gate(steering)), pairs, requests, parse_judge("embedded"), 32, 16
    ) as measurer:
        for configuration in (weak, strong, gated):
            scores, measured = surrogate.score(configuration), measurer.measure(configuration)
            # two of 12 requests may differ: the estimate is not a hard decision
            assert scores.asr == pytest.approx(measured.asr.value, abs=2.5 / N)
            assert scores.cost == pytest.approx(measured.cost, abs=0.25)
    assert surrogate.score(weak).asr > surrogate.score(strong).asr
    assert not embedded.steered, "the model is unsteered again"


@pytest.mark.slow
def test_whole_prefills_give_the_same_estimates(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, pairs: Pairs, surrogate: Surrogate, monkeypatch: Any
) -> None:
    """A family without prefix reuse is scored under the real hooks, by first tokens only."""
    monkeypatch.setattr(embedded, "family", replace(embedded.family, prefix_reuse=False))
    with prepare(embedded, steering, pairs, parse_judge("embedded"), max_new_tokens=4) as other:
        assert not other.reuses_prefixes
        ungated, gated = Configuration.uniform(steering, 0.12, 3), Configuration.uniform(steering, 0.2, 3, 1.0, 0.1)
        for configuration in (ungated, gated, None):
            expected, scores = surrogate.score(configuration), other.score(configuration)
            # float32 sums in another order, through a steep logistic function
            assert scores.asr == pytest.approx(expected.asr, abs=1e-3)
            assert scores.over_refusal == pytest.approx(expected.over_refusal, abs=1e-3)
            assert scores.broken == 0


@pytest.mark.slow
def test_the_layer_study_scores_each_layer(surrogate: Surrogate, steering: Steering) -> None:
    configuration = Configuration.uniform(steering, 0.1, 3)
    study = study_layers(surrogate, Space(steering), configuration)
    assert [row.layer for row in study.rows] == list(range(8))
    assert study.whole == surrogate.score(configuration)
    only = tuple(float(layer == 4) for layer in range(8))
    alone = configuration.with_strength(alpha=study.rows[4].alone_alpha, layer_weights=only)
    assert study.rows[4].alone == surrogate.score(alone)
    space = Space(steering, gates=own_gate(steering))
    pushes = [
        row.alone_alpha * space.push_at_one(3, 1.0, tuple(float(i == row.layer) for i in range(8)))
        for row in study.rows
    ]
    assert pushes == pytest.approx([0.1 * space.push_at_one(3, 1.0, (1.0,) * 8)] * 8)
    gated = study_layers(surrogate, space, Configuration.uniform(steering, 0.1, 3, 1.0, 0.1))
    assert steering.gate is not None
    assert [row.layer for row in gated.rows] == list(range(steering.gate.layer + 1, 8))


@pytest.mark.slow
def test_a_gated_file_is_studied_with_its_gate(
    embedded: sarsteer.AudioLanguageModel,
    steering: Steering,
    calibration_pairs: Pairs,
    test_pairs: Pairs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the gate's threshold, and only in the layers above it, though its weights are 1 everywhere."""
    from sarsteer.cli.main import app

    fitted = fit_gates(last_tokens(embedded, calibration_pairs[:24], INSTRUCTION, 16), [3])[3]
    gate = replace(fitted, threshold=0.5, limit=None, metadata={})  # no rate to set the threshold from
    chosen = steering.with_gate(gate).with_defaults(alpha=0.2, k=3, gate=True)
    path = chosen.save(tmp_path / "gated.safetensors")
    few = ("--pairs", "sarsteer-tiny", "--limit", "6", "--json")
    app(["layers", "sarsteer-tiny", "--steering", str(path), *few], standalone_mode=False)
    output = capsys.readouterr()
    assert output.err == "", "the default is the test split, which shares nothing with calibration"
    study = json.loads(output.out)
    assert study["setting"]["layer_weights"] == [0.0] * 4 + [1.0] * 4
    assert [row["layer"] for row in study["rows"]] == [4, 5, 6, 7]
    upper = Strength(0.2, 3, 1.0, (0.0,) * 4 + (1.0,) * 4)
    gated = Configuration(upper, GateReference(3))
    everywhere = gated.with_strength(layer_weights=(1.0,) * 8)
    with prepare(embedded, chosen, test_pairs[:6], parse_judge("embedded")) as surrogate:
        assert study["whole"] == pytest.approx(vars(surrogate.score(gated)), abs=1e-6)
        assert surrogate.score(everywhere) == surrogate.score(gated), "layers up to the gate are not steered"
        for other in (Configuration(upper), Configuration(everywhere.strength)):
            assert study["whole"] != pytest.approx(vars(surrogate.score(other)), abs=1e-3)
    # whole prefills under the real hooks
    embedded.family, family = replace(embedded.family, prefix_reuse=False), embedded.family
    try:
        with prepare(embedded, chosen, test_pairs[:6], parse_judge("embedded"), max_new_tokens=4) as hooked:
            real = hooked.score(everywhere)
    finally:
        embedded.family = family
    assert study["whole"]["asr"] == pytest.approx(real.asr, abs=1e-3)


@pytest.mark.parametrize(("split", "limit", "shared"), [("calibration", 3, 3), ("calibration", 26, 24), ("test", 3, 0)])
def test_calibration_pairs_are_noticed(
    steering: Steering, calibration_pairs: Pairs, test_pairs: Pairs, split: str, limit: int, shared: int
) -> None:
    """The steering was calibrated on the first 24 pairs; any of them are found."""
    from sarsteer.cli.layers import _calibrated_on

    chosen = (calibration_pairs if split == "calibration" else test_pairs)[:limit]
    assert _calibrated_on(steering, chosen, "sarsteer-tiny", None, None) == shared


def test_answers_end_where_generation_ends(embedded: sarsteer.AudioLanguageModel, pairs: Pairs) -> None:
    prompts = embedded.prepare([item.turn(INSTRUCTION) for item in pairs.safe[:4]])
    answers = answer(embedded, prompts, 32, 4)
    assert list(answers.texts) == embedded.generate(prompts, 32)
    for text, tokens in zip(answers.texts, answers.tokens, strict=True):
        assert embedded.tokenizer.decode(tokens, skip_special_tokens=True).strip() == text
        assert embedded.module.generation_config.eos_token_id in tokens
        assert tokens.count(embedded.module.generation_config.eos_token_id) == 1


def test_refusal_tokens_are_those_that_gain_probability() -> None:
    plain = torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.1, 0.0, 0.9, 0.0]])
    prompted = torch.tensor([[0.6, 0.3, 0.1, 0.0], [0.5, 0.1, 0.4, 0.0]])
    tokens = refusal_tokens(prompted, plain)
    assert tokens.ids == (0, 1)  # the largest gain first; tokens that lose are left out
    assert tokens.gains == pytest.approx((0.45, 0.15))
    assert tokens.change == pytest.approx(0.6)  # the total variation between the two means
    assert tokens.usable
    assert not refusal_tokens(plain, plain).usable
