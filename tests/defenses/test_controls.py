"""Controls: vectors of the same norms in other directions, one arm of several directions, and the gain over them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs
from sarsteer.defenses import DEFENSES, BuiltDefense, DefenseContext, Requirement, build_defense
from sarsteer.defenses.control import DIRECTIONS
from sarsteer.defenses.random_vectors import RandomVectors
from sarsteer.defenses.reversed_vectors import ReversedVectors
from sarsteer.defenses.rewrite import PromptRewrite
from sarsteer.defenses.shuffled_labels import ShuffledLabels
from sarsteer.defenses.steered import SteeredDefense, steered
from sarsteer.errors import CalibrationError, EvaluationError
from sarsteer.evaluation.controls import PlannedDefense, notes_on, notes_on_directions, with_controls
from sarsteer.evaluation.results import Answer
from sarsteer.evaluation.summary import summarize
from sarsteer.judges import JudgedAnswer, Verdict
from sarsteer.runtime.answerer import Answerer
from sarsteer.steering.baselines import balanced_signs
from sarsteer.steering.strength import Strength
from sarsteer.steering.subspace import ablate


def vectors_of(defense: BuiltDefense) -> list[torch.Tensor]:
    members = defense.pool or (defense,)
    assert all(member.strength is not None for member in members)
    return [member.strength.vectors for member in members if member.strength is not None]


@dataclass(frozen=True)
class Polite(SteeredDefense):
    """A third party's defense: vectors of its own, and a prompt."""

    name: ClassVar[str] = "polite"

    def build(self, context: DefenseContext) -> BuiltDefense:
        assert context.steering is not None
        strength = context.steering.resolve(Strength(alpha=0.3, k=0))
        strength = strength.with_vectors(3 * strength.vectors)
        built = steered(self.name, strength, strength.settings)
        return replace(built, prompt=PromptRewrite("polite", after=" Please."))


def test_controls_of_any_steered_defense_have_its_norms_alpha_gate_and_prompt(
    embedded: sarsteer.AudioLanguageModel, steering: Steering
) -> None:
    context = DefenseContext(embedded, steering=steering)
    for of in (DEFENSES.parse("sarsteer:alpha=0.2,k=2,gate=hard"), DEFENSES.parse("mean-ablation"), Polite()):
        assert isinstance(of, SteeredDefense)
        own = build_defense(of, context)
        assert own.strength is not None
        for control in (RandomVectors(of=of), ReversedVectors(of=of)):
            built = build_defense(control, context)
            for member in built.pool or (built,):
                assert member.strength is not None
                torch.testing.assert_close(  # norms of float32 rows that were scaled in float64
                    member.strength.vectors.norm(dim=1), own.strength.vectors.norm(dim=1), rtol=1e-5, atol=1e-7
                )
                assert member.strength.alpha == own.strength.alpha
                assert member.strength.gate is own.strength.gate or of == DEFENSES.parse(
                    "sarsteer:alpha=0.2,k=2,gate=hard"
                )
                assert (member.strength.gate is None) == (own.strength.gate is None)
                assert member.prompt == own.prompt
                assert member.steering == own.steering
    (reversed_,) = vectors_of(build_defense(ReversedVectors(of=Polite()), context))
    assert torch.equal(reversed_, -vectors_of(build_defense(Polite(), context))[0])


def test_five_directions_are_pooled_and_a_request_always_meets_the_same(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, test_pairs: Pairs
) -> None:
    context = DefenseContext(embedded, steering=steering, strength=Strength(alpha=0.3))
    control = build_defense(DEFENSES.parse("random:seed=7"), context)
    assert len(control.pool) == DIRECTIONS == 5
    assert control.strength is None
    assert control.alpha == 0.3
    vectors = torch.stack(vectors_of(control))
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    cosines = torch.einsum("ild,jld->lij", unit, unit) - torch.eye(5)
    assert cosines.abs().max() < 0.5, "random directions in 192 dimensions are nearly orthogonal"
    for seed, member in enumerate(control.pool, 7):
        alone = build_defense(DEFENSES.parse(f"random:seed={seed},directions=1"), context)
        assert torch.equal(vectors_of(alone)[0], vectors_of(member)[0])
        assert alone.settings == member.settings
    turns = [item.turn(steering.metadata["instruction"]) for item in test_pairs[:6].harmful]
    members = [control.member_for(turn) for turn in turns]
    assert len({id(member) for member in members}) > 1
    again = build_defense(DEFENSES.parse("random:seed=7"), context)
    assert [control.pool.index(m) for m in members] == [again.pool.index(again.member_for(turn)) for turn in turns]
    answerer = Answerer(embedded)
    together: list[Any] = answerer.answer(control, turns, 8)
    apart = [answerer.answer(member, [turn], 8)[0] for member, turn in zip(members, turns, strict=True)]
    answerer.close()
    assert together == apart
    assert [reply.details["direction"] for reply in together] == [7 + control.pool.index(m) for m in members]
    prepared = embedded.prepare(turns)
    assert {control.pool.index(control.member_for(prompt)) for prompt in prepared} <= set(range(5))


def test_a_pool_cannot_hide_steering_that_would_be_skipped(
    embedded: sarsteer.AudioLanguageModel, steering: Steering
) -> None:
    """Who reads ``strength`` of a pooled defense would otherwise steer by nothing, or by one direction for all."""
    member = build_defense(DEFENSES.parse("sarsteer"), DefenseContext(embedded, steering=steering))
    pool = BuiltDefense({"kind": "x"}, pool=(member,))
    for changed in ({"strength": member.strength}, {"prompt": PromptRewrite("x", after="y")}, {"pool": (pool,)}):
        with pytest.raises(ValueError, match="pool"):
            replace(pool, **changed)
    assert not any(isinstance(reply, Exception) for reply in Answerer(embedded).answer(pool, []))


def test_shuffled_labels_are_the_calibration_with_half_of_the_pairs_swapped(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, calibration_pairs: Pairs, tmp_path: Path
) -> None:
    pairs, texts = calibration_pairs[:24], (steering.metadata["instruction"], steering.metadata["refusal_prompt"])
    context = DefenseContext(embedded, steering=steering, pairs=pairs, cache=tmp_path, strength=Strength(k=3))
    own = build_defense(DEFENSES.parse("sarsteer"), context)
    built = build_defense(DEFENSES.parse("shuffled:directions=2,seed=4"), context)
    # with batches as in the defense: another batch rounds activations differently, and small vectors are scaled up
    plain, prompted = (
        torch.cat(
            [
                embedded.last_token_activations([item.turn(text) for item in pairs[start : start + 16].harmful])
                for start in (0, 16)
            ]
        ).double()
        for text in (texts[0], "".join(texts))
    )
    for seed, found in zip((4, 5), vectors_of(built), strict=True):
        swap = (balanced_signs(24, seed) < 0)[:, None, None]
        assert int(swap.sum()) == 12
        first, second = torch.where(swap, prompted, plain), torch.where(swap, plain, prompted)
        shuffled = ablate((second - first).mean(0).float(), steering.safe_basis, 3, 1.0)
        cosine = torch.nn.functional.cosine_similarity(shuffled.double(), found.double())
        assert cosine.min() > 0.999, "up to float32 rounding of activations on another path"
        torch.testing.assert_close(found.norm(dim=1), vectors_of(own)[0].norm(dim=1), rtol=1e-5, atol=1e-7)
    (file,) = tmp_path.glob("shuffled-*.safetensors")
    before = file.stat().st_mtime_ns
    again = build_defense(DEFENSES.parse("shuffled:directions=2,seed=4,alpha=0.4"), context)
    assert again.settings["vectors"] == built.settings["vectors"]
    assert file.stat().st_mtime_ns == before, "computed once"
    # a steering of the first pairs of the file is compared with shuffles of these pairs, not of all
    more = replace(context, pairs=calibration_pairs[:30], cache=tmp_path)
    assert build_defense(DEFENSES.parse("shuffled:directions=2,seed=4"), more).settings == built.settings


def test_what_all_pairs_share_cancels_out() -> None:
    for n in (2, 5, 24, 101):
        for seed in range(3):
            signs = balanced_signs(n, seed)
            assert signs.sum() == 0
            assert (signs == 0).sum() == n % 2
    assert not torch.equal(balanced_signs(24, 0), balanced_signs(24, 1))
    with pytest.raises(CalibrationError, match="at least 2 pairs, not 1"):
        balanced_signs(1, 0)


def plan(*specs: str, pairs: bool = True, add: bool = True) -> list[PlannedDefense]:
    available = {Requirement.ACTIVATIONS, Requirement.STEERING, *([Requirement.PAIRS] if pairs else [])}
    return with_controls([PlannedDefense(spec, DEFENSES.parse(spec)) for spec in specs], available, add=add)


def test_one_steered_defense_gets_controls() -> None:
    found = {row.name: row.control_of for row in plan("none", "refusal-steering", "sarsteer:alpha=0.2")}
    name = "sarsteer:alpha=0.2"
    assert found == {
        "none": None,
        "refusal-steering": None,
        name: None,
        f"random control of {name}": name,
        f"reversed control of {name}": name,
        f"shuffled control of {name}": name,
    }
    assert [row.name for row in plan("sarsteer", pairs=False)] == [
        "sarsteer",
        "random control of sarsteer",
        "reversed control of sarsteer",
    ]
    assert [row.control_of for row in plan("h2s")] == [None, "h2s", "h2s"], (
        "its labels are not those of a steering file"
    )
    assert [row.name for row in plan("none", "prompt:refusal")] == ["none", "prompt:refusal"]
    assert len(plan("sarsteer", add=False)) == 1
    # a control that the user passed is used, and not added again
    assert [(row.name, row.control_of) for row in plan("sarsteer:k=2", "random:k=2,seed=3", pairs=False)] == [
        ("sarsteer:k=2", None),
        ("random:k=2,seed=3", "sarsteer:k=2"),
        ("reversed control of sarsteer:k=2", "sarsteer:k=2"),
    ]
    assert plan("sarsteer:k=2", "random", add=False)[1].control_of is None, "it has other norms"


def test_notes_say_which_controls_are_missing() -> None:
    assert notes_on(plan("sarsteer")) == []
    assert "no control with shuffled labels" in notes_on(plan("sarsteer", pairs=False))[0].text
    assert "no control:" in notes_on(plan("sarsteer", add=False))[0].text
    assert notes_on(plan("none", "prompt:refusal")) == []
    assert notes_on(plan("h2s")) == []


def test_requirements_of_controls() -> None:
    steering = {Requirement.ACTIVATIONS, Requirement.STEERING}
    with pytest.raises(EvaluationError, match="needs calibration pairs"):
        DEFENSES.parse("shuffled").check(steering)
    h2s = DEFENSES.parse("h2s")
    assert isinstance(h2s, SteeredDefense)
    RandomVectors(of=h2s).check({Requirement.ACTIVATIONS, Requirement.PAIRS})
    with pytest.raises(EvaluationError, match="needs calibration pairs"):
        RandomVectors(of=h2s).check(steering)
    with pytest.raises(EvaluationError, match="needs calibration pairs"):
        ShuffledLabels(of=DEFENSES.parse("sarsteer")).check(steering)  # type: ignore[arg-type]


def verdicts(text: str) -> list[Verdict]:
    known: dict[str, Any] = {"c": "complied", "r": "refused", "?": None}
    return [Verdict(known[letter], "") for letter in text]


def test_the_gain_over_random_directions() -> None:
    """Only the part of a refusal rate that random directions do not reach is the direction's."""
    items = [JudgedAnswer("q", "a", "harmful", id=str(i)) for i in range(20)]
    items += [JudgedAnswer("q", "a", "safe", id=str(i)) for i in range(20, 40)]
    ours, random = verdicts("r" * 16 + "c" * 4 + "r" * 2 + "c" * 18), verdicts("r" * 4 + "c" * 16 + "r" + "c" * 19)
    summary = summarize(ours, items, None, random)
    assert summary.gain is not None
    assert summary.gain_safe is not None
    assert summary.gain.value == pytest.approx(0.6)
    assert 0.3 < summary.gain.low < 0.6 < summary.gain.high < 0.85
    assert summary.gain_safe.value == pytest.approx(0.05)
    assert summary.gain_safe.low < 0
    nothing = summarize(random, items, None, random)
    assert nothing.gain is not None
    assert nothing.gain.low < 0 == nothing.gain.value < nothing.gain.high
    unreadable = summarize(ours, items, None, [Verdict(None, ""), *random[1:]])
    assert unreadable.gain is not None
    assert unreadable.gain.n == 19
    assert summarize(ours, items).gain is None


def test_the_spread_over_directions_is_noted() -> None:
    def answer(i: int, direction: int | None, outcome: Any) -> Answer:
        return Answer(str(i), "q", "harmful", "a", Verdict(outcome, ""), direction=direction)

    answers = [answer(i, i % 2, "refused" if i in (0, 2) else "complied") for i in range(8)]
    (note,) = notes_on_directions("random", answers)
    assert "2 directions" in note.text
    assert "0 to 50 % of the harmful ones" in note.text
    assert notes_on_directions("sarsteer", [answer(i, None, "refused") for i in range(4)]) == []
