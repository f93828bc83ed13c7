"""Defenses: specs, requirements, settings, and what they add to the activations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs
from sarsteer.defenses import DEFENSES, UNDEFENDED, Defense, DefenseContext, Requirement, build_defense
from sarsteer.errors import CalibrationError, EvaluationError, ModelError, SteeringError
from sarsteer.runtime.answerer import Answerer, Reply
from sarsteer.steering.strength import Strength

FROM_FILE = ("sarsteer", "refusal-steering", "mean-ablation", "random:directions=1", "reversed")

OTHERS = ("agree", "none", "prompt", "h2s", "c2r", "guard", "shuffled", "cast", "alphasteer", "random-gate")


def test_every_defense_is_registered() -> None:
    assert DEFENSES.names() == sorted((*(spec.partition(":")[0] for spec in FROM_FILE), *OTHERS))
    for usage, summary in DEFENSES.help():
        assert usage
        assert summary.endswith(".")


@pytest.mark.parametrize(
    "spec",
    [
        "none",
        "prompt:refusal",
        "sarsteer",
        "sarsteer:alpha=0.2,k=5,gate=hard",
        "sarsteer:lambda=0.5",
        "sarsteer:push=0.05,gate=on,refusal=I am sorry, but no.",
        "guard:embedded,refusal=No.",
        "refusal-steering:alpha=0.3",
        "random:alpha=0.1,seed=1",
        "shuffled:directions=3",
        "h2s:alpha=0.01",
        "guard:llama-guard:meta-llama/Llama-Guard-3-8B",
        "guard:rubric:openai/gpt",
        "guard:embedded",
        "guard:self",
        "guard:words",
        "cast:alpha=0.2",
        "random-gate:3,fpr=0.1",
        "alphasteer:alpha=0.2,share=0.6,ridge=1",
    ],
)
def test_specs_survive_a_round_trip(spec: str) -> None:
    assert DEFENSES.spec_of(DEFENSES.parse(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("magic", "unknown defense 'magic'; use one of agree, alphasteer, c2r, cast, guard"),
        ("none:x", "unknown option 'x'; its options: none"),
        ("prompt", "needs text; write prompt:TEXT"),
        ("prompt:nothing", "neither a built-in prompt nor a file; use one of ada, harm-check"),
        ("sarsteer:alpha=much", "alpha must be a finite number, not 'much'"),
        ("sarsteer:alpha=inf", "alpha must be a finite number, not 'inf'"),
        ("sarsteer:k=1.5", "k must be a whole number"),
        ("sarsteer:gate=maybe", "gate must be one of off, on, hard, logistic"),
        ("refusal-steering:k=5", "unknown option 'k'; its options: alpha, push, lambda, gate, refusal"),
        ("h2s:gate=on", "unknown option 'gate'; its options: alpha"),
        ("guard:keywords", "unknown guard 'keywords'; use one of guard:llama-guard:MODEL, guard:rubric:MODEL"),
        ("random:directions=0", "directions must be at least 1, not 0"),
        ("guard:rubric", "has no model; write guard:rubric:MODEL"),
    ],
)
def test_mistakes_in_specs(spec: str, says: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        DEFENSES.parse(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_requirements_are_checked_before_building(
    embedded: sarsteer.AudioLanguageModel, openai_model: sarsteer.LanguageModel
) -> None:
    steering_and_pairs = {Requirement.STEERING, Requirement.PAIRS}
    for spec, missing, says in (
        ("sarsteer", Requirement.STEERING, "needs a steering file; pass --steering FILE"),
        ("h2s", Requirement.PAIRS, "needs calibration pairs; pass --calibration PAIRS"),
    ):
        defense = DEFENSES.parse(spec)
        with pytest.raises(EvaluationError, match=says):
            build_defense(defense, DefenseContext(embedded))
        with pytest.raises(EvaluationError, match=says):
            defense.check({Requirement.ACTIVATIONS, *steering_and_pairs} - {missing})
        defense.check(set(Requirement))
        with pytest.raises(ModelError, match="not steered"):
            build_defense(defense, DefenseContext(openai_model))
    assert build_defense(DEFENSES.parse("none"), DefenseContext(openai_model)) is UNDEFENDED


@pytest.fixture
def openai_model(monkeypatch: pytest.MonkeyPatch) -> sarsteer.LanguageModel:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return sarsteer.ApiModel("openai/gpt-audio")


def test_options_precede_the_run_and_the_run_precedes_the_file(
    embedded: sarsteer.AudioLanguageModel, steering: Steering
) -> None:
    context = DefenseContext(embedded, steering=steering, strength=Strength(alpha=0.3, k=4, gate="hard"), seed=5)

    def settings(spec: str) -> Any:
        return build_defense(DEFENSES.parse(spec), context).settings

    assert (settings("sarsteer")["alpha"], settings("sarsteer")["k"]) == (0.3, 4)
    assert settings("sarsteer")["gate"]["mode"] == "hard"
    own = settings("sarsteer:alpha=0.1,k=2,lambda=0.5,gate=off")
    assert (own["alpha"], own["k"], own["lambda"]) == (0.1, 2, 0.5)
    assert "gate" not in own
    assert settings("sarsteer:gate=logistic")["gate"]["mode"] == "logistic"
    assert settings("refusal-steering")["k"] == 0
    assert "k" not in settings("mean-ablation")
    assert settings("random")["seed"] == 5
    assert settings("random:seed=7")["seed"] == 7
    default = build_defense(DEFENSES.parse("sarsteer"), DefenseContext(embedded, steering=steering))
    assert (default.settings["alpha"], default.settings["k"], default.settings["lambda"]) == steering.defaults


def test_settings_contain_what_logs_of_earlier_versions_contain(
    embedded: sarsteer.AudioLanguageModel, steering: Steering
) -> None:
    """A run that an earlier version started resumes only if the settings are equal."""
    context = DefenseContext(embedded, steering=steering)
    built = build_defense(DEFENSES.parse("sarsteer:alpha=0.2,k=2,gate=hard"), context)
    gate = steering.gate
    assert gate is not None
    vectors = steering.vectors(2, 1.0)
    assert built.settings == {
        "kind": "sarsteer",
        "alpha": 0.2,
        "k": 2,
        "lambda": 1.0,
        "steering": steering.digest,
        "vectors": hashlib.sha256(vectors.float().contiguous().numpy().tobytes()).hexdigest(),
        "gate": {
            "layer": gate.layer,
            "mode": "hard",
            "threshold": gate.threshold,
            "temperature": gate.temperature,
            "limit": gate.limit,
            "digest": gate.with_mode("hard").digest,
        },
    }
    prompt = build_defense(DEFENSES.parse("prompt:refusal"), context)
    assert json.loads(prompt.key) == {
        "kind": "prompt",
        "name": "refusal-prompt",
        "before": "",
        "after": "I cannot assist with that.",
        "system": "",
        "turns": [],
    }
    assert UNDEFENDED.key == '{"kind": "none"}'
    guard = build_defense(DEFENSES.parse("guard:embedded"), context)
    assert list(guard.settings) == ["kind", "guard", "transcribe", "refusal"]
    assert str(guard.settings["guard"]).startswith("embedded/1/")


def test_every_control_keeps_the_layer_weights_of_a_tuned_file(
    embedded: sarsteer.AudioLanguageModel, steering: Steering
) -> None:
    """Otherwise a comparison of defenses would be a comparison of layers."""
    weights = [0.0] * 4 + [0.5] * 2 + [1.0] * 2
    plain, tuned = (
        {spec: build_defense(DEFENSES.parse(spec), DefenseContext(embedded, steering=one)) for spec in FROM_FILE}
        for one in (steering, steering.with_defaults(layer_weights=weights))
    )
    for spec in FROM_FILE:
        before, after = plain[spec].strength, tuned[spec].strength
        assert before is not None
        assert after is not None
        scaled = before.vectors.norm(dim=1) * torch.tensor(weights)
        torch.testing.assert_close(after.vectors.norm(dim=1), scaled, rtol=1e-5, atol=1e-6)  # float32 products
        assert "layer_weights" not in plain[spec].settings
        assert tuned[spec].settings["layer_weights"] == weights
    ablated, weighted = plain["mean-ablation"].strength, tuned["mean-ablation"].strength
    assert ablated is not None
    assert weighted is not None
    assert torch.equal(weighted.vectors, ablated.vectors * torch.tensor(weights)[:, None])


def test_mean_difference_vectors_are_computed_once(
    tmp_path: Path, embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = DefenseContext(embedded, pairs=calibration_pairs[:2], cache=tmp_path)
    first = build_defense(DEFENSES.parse("h2s"), context)
    assert first.settings["alpha"] == 0.1, "the paper's, without a steering file"
    monkeypatch.setattr(type(embedded), "last_token_activations", None)
    again = build_defense(DEFENSES.parse("h2s:alpha=0.02"), context)
    assert again.settings["vectors"] == first.settings["vectors"]
    assert again.settings["alpha"] == 0.02
    (file,) = tmp_path.glob("h2s-*.safetensors")
    file.write_bytes(b"no vectors")
    with pytest.raises(CalibrationError, match="is damaged; delete it"):
        build_defense(DEFENSES.parse("h2s"), context)


def test_a_gate_that_is_missing(embedded: sarsteer.AudioLanguageModel, steering: Steering) -> None:
    context = DefenseContext(embedded, steering=steering.with_gate(None))
    with pytest.raises(SteeringError, match="gate"):
        build_defense(DEFENSES.parse("sarsteer:gate=on"), context)


def test_a_push_is_the_same_share_of_the_activations_for_any_vectors(
    embedded: sarsteer.AudioLanguageModel, steering: Steering
) -> None:
    """Twice as long vectors get half the alpha, and what is added stays the same."""
    context = DefenseContext(embedded, steering=steering)
    longer = replace(steering, refusal=2 * steering.refusal)
    for spec in ("sarsteer:push=0.05", "sarsteer:push=0.05,k=0", "refusal-steering:push=0.2"):
        found = build_defense(DEFENSES.parse(spec), context).strength
        twice = build_defense(DEFENSES.parse(spec), replace(context, steering=longer)).strength
        assert found is not None
        assert twice is not None
        assert twice.alpha == pytest.approx(found.alpha / 2)
        torch.testing.assert_close(twice.deltas, found.deltas, rtol=1e-5, atol=1e-7)  # two float32 products
        share = (found.deltas.double().norm(dim=1) / steering.activation_norms.double()).mean()
        assert float(share) == pytest.approx(float(spec.partition("push=")[2].partition(",")[0]), rel=1e-5)
    with pytest.raises(EvaluationError, match="alpha and push are both set"):
        build_defense(DEFENSES.parse("sarsteer:push=0.05,alpha=0.1"), context)
    with pytest.raises(SteeringError, match="push must be a number above 0"):
        build_defense(DEFENSES.parse("sarsteer:push=0"), context)
    with pytest.raises(SteeringError, match="all vectors are zero"):
        build_defense(
            DEFENSES.parse("sarsteer:push=0.1"), replace(context, strength=Strength(layer_weights=(0.0,) * 8))
        )


def decisions_on(model: sarsteer.AudioLanguageModel, steering: Steering, turns: Any) -> Any:
    with steering.on(model, gate=True) as handle:
        model.generate(turns, 1)
        return handle.decisions


def test_a_fixed_refusal_answers_what_opens_the_gate(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, test_pairs: Pairs
) -> None:
    gate, answerer = steering.gate, Answerer(embedded)
    assert gate is not None
    turns = [item.turn(steering.metadata["instruction"]) for item in (*test_pairs[:6].harmful, *test_pairs[:6].safe)]
    scores = sorted(one.score for one in decisions_on(embedded, steering, turns))
    context = DefenseContext(embedded, steering=steering.with_gate(replace(gate, threshold=scores[6] - 1e-3)))
    own: list[Any] = answerer.answer(build_defense(DEFENSES.parse("sarsteer:gate=on"), context), turns, 12)
    fixed: list[Any] = answerer.answer(
        build_defense(DEFENSES.parse("sarsteer:gate=on,refusal=Not here."), context), turns, 12
    )
    answerer.close()
    opened = [reply.details["gate"]["opening"] >= 0.5 for reply in own]
    assert 0 < sum(opened) < len(opened)
    for before, after, is_open in zip(own, fixed, opened, strict=True):
        assert after.text == ("Not here." if is_open else before.text)
        assert after.details["gate"] == before.details["gate"]
        assert after.details.get("own_words", before.text) == before.text
    for spec in ("sarsteer:refusal=No.", "sarsteer:gate=shadow,refusal=No."):
        with pytest.raises(SteeringError, match="a refusal needs a gate that steers"):
            build_defense(DEFENSES.parse(spec), context)
    guard = build_defense(DEFENSES.parse("guard:embedded,refusal=Not here."), context)
    (stopped,) = answerer.answer(guard, turns[:1], 12)
    assert isinstance(stopped, Reply)
    assert stopped.text == "Not here."


PLUGIN = '''
from dataclasses import dataclass

from sarsteer.defenses import BuiltDefense, Defense
from sarsteer.defenses.rewrite import PromptRewrite
from sarsteer.registry import option


@dataclass(frozen=True)
class Polite(Defense):
    """Ask politely."""

    name = "polite"

    text: str = option("Please be careful.", argument=True, help="the sentence")
    times: int = option(1, help="how often")

    def build(self, context):
        rewrite = PromptRewrite(self.name, after=" " + " ".join([self.text] * self.times))
        return BuiltDefense({"kind": self.name, "text": self.text, "times": self.times}, prompt=rewrite)
'''


def test_a_defense_from_a_file(tmp_path: Path, embedded: sarsteer.AudioLanguageModel) -> None:
    file = tmp_path / "polite.py"
    file.write_text(PLUGIN)
    defense = DEFENSES.parse(f"{file}:Polite:Take care.,times=2")
    assert isinstance(defense, Defense)
    built = build_defense(defense, DefenseContext(embedded))
    assert built.settings == {"kind": "polite", "text": "Take care.", "times": 2}
    assert built.prompt.apply([{"role": "user", "content": "Go."}])[0]["content"] == "Go. Take care. Take care."
    assert DEFENSES.spec_of(defense) == f"{file}:Polite:Take care.,times=2"
    with pytest.raises(EvaluationError, match="has no class Rude"):
        DEFENSES.parse(f"{file}:Rude")


def test_equal_settings_do_not_hide_different_defenses(embedded: sarsteer.AudioLanguageModel) -> None:
    """A batch is answered under one defense, so defenses with careless settings must not share one."""
    from sarsteer.defenses import BuiltDefense
    from sarsteer.defenses.rewrite import PromptRewrite

    first, second = (BuiltDefense({"kind": "x"}, prompt=PromptRewrite("x", after=text)) for text in ("a", "b"))
    assert first.key == second.key
    assert first.batch_key != second.batch_key
