"""Every attack on a few requests: what it changes, what it keeps, and that finished clips are found again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sarsteer.attacks import ATTACKS, Access, Attack, AttackContext
from sarsteer.attacks.augment import augmented_pairs, parse_transforms
from sarsteer.attacks.items import variant_number
from sarsteer.attacks.state import SavedState
from sarsteer.attacks.transform import Transform
from sarsteer.audio import load_clip
from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs
from sarsteer.errors import AttackError, ManifestError
from sarsteer.stats.any_of_n import any_of, curve_of_n, curve_until

INSTRUCTION = "Please answer."
BLACK_BOX = sorted(
    name for name, cls in ATTACKS.classes().items() if cls.access is Access.BLACK_BOX and not issubclass(cls, Transform)
)


def attack_of(name: str) -> Attack:
    return ATTACKS.parse({"best-of-n": "best-of-n:3", "long-clip": "long-clip:6"}.get(name, name))


def run(attack: Attack, items: Sequence[Item], folder: Path, seed: int = 0) -> list[Item]:
    folder.mkdir(exist_ok=True)
    return attack.attack(items, AttackContext(folder, ATTACKS.spec_of(attack), INSTRUCTION, seed=seed))


@pytest.mark.parametrize("name", [*BLACK_BOX, "noise"])
def test_an_attack_keeps_what_is_judged(name: str, test_pairs: Pairs, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    items = [test_pairs[0].harmful, test_pairs[0].safe]
    attack = attack_of(name)
    attack.check()
    attacked = run(attack, items, tmp_path / "one")
    assert len(attacked) == attack.queries * len(items)
    for i, one in enumerate(attacked):
        of = items[i // attack.queries]
        assert variant_number(one.id) == (of.id, i % attack.queries + 1)
        assert (one.question, one.label, one.pair, one.answer) == (of.question, of.label, of.pair, of.answer)
        assert load_clip(one.audio).seconds > 0
        if one.media != of.media and name != "harmful-text":
            assert one.extra["clean"] == str(of.audio)
    first = attacked[0]
    assert (first.media, first.text, first.earlier) != (items[0].media, items[0].text, [])
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.wav")}
    assert run(attack, items, tmp_path / "one") == attacked
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.wav")} == files
    again = run(attack, items, tmp_path / "two")
    assert [load_clip(one.audio).digest for one in again] == [load_clip(one.audio).digest for one in attacked]


def test_clips_are_needed(test_pairs: Pairs, tmp_path: Path) -> None:
    written = replace(test_pairs[0].harmful, modality="text", media=None)
    for name in ("noise", "best-of-n:2", "voice", "two-speakers", "harmful-text"):
        with pytest.raises(AttackError, match="is text; choose spoken requests"):
            run(ATTACKS.parse(name), [written], tmp_path)


def test_best_of_n_draws_the_same_strengths_for_all_requests(test_pairs: Pairs, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    items = [test_pairs[0].harmful, test_pairs[1].safe]
    attacked = run(ATTACKS.parse("best-of-n:4"), items, tmp_path)
    lengths = np.array([load_clip(one.audio).seconds for one in attacked]).reshape(2, 4)
    factors = lengths / [[load_clip(item.audio).seconds] for item in items]
    # only the speed changes the length, in whole samples of each of two resamplings
    np.testing.assert_allclose(factors[0], factors[1], rtol=2e-3)
    assert len({round(value, 3) for value in factors[0]}) == 4
    assert len({one.extra["cluster"] for one in attacked}) == 2


def test_any_of_n_is_the_share_of_sets_with_a_success() -> None:
    outcomes = [True, False, False, True, False]
    for n in range(1, 6):
        sets = list(itertools.combinations(outcomes, n))
        assert any_of(2, 5, n) == pytest.approx(sum(map(any, sets)) / len(sets))
    with pytest.raises(ValueError, match="from 1 to the 5 tries"):
        any_of(2, 5, 6)


def test_a_power_law_is_recovered() -> None:
    # with one success chance p, -ln(rate) is no power law; rates that are one give back a and b
    rng = np.random.default_rng(0)
    outcomes = (rng.random((40, 64)) < rng.beta(0.3, 3, (40, 1))).tolist()
    curve = curve_of_n(outcomes)
    assert curve.n == (1, 2, 4, 8, 16, 32, 64)
    values = [one.value for one in curve.rates]
    assert values == sorted(values)
    assert curve.rates[0].value == pytest.approx(np.mean(outcomes))
    assert curve.rates[-1].value == pytest.approx(np.mean([any(one) for one in outcomes]))
    assert curve.a is not None
    # least squares in log-log: the mean residual is 0 up to rounding
    residuals = [
        np.log(-np.log(one.value)) - np.log(-np.log(curve.predicted(n) or 0.0))
        for n, one in zip(curve.n, curve.rates, strict=True)
    ]
    assert np.mean(residuals) == pytest.approx(0, abs=1e-9)
    assert curve_of_n([[False, False]]).a is None
    first = [next((i for i, hit in enumerate(one, 1) if hit), None) for one in outcomes]
    until = curve_until(first, 64)
    assert until.n == curve.n
    for n, one in zip(until.n, until.rates, strict=True):
        assert one.value == np.mean([any(row[:n]) for row in outcomes])
    assert until.rates[-1].value == curve.rates[-1].value, "all tries, in any order"


def test_saved_state_survives_and_fits_only_its_settings(tmp_path: Path) -> None:
    context = AttackContext(tmp_path)
    state = context.state("item 1", {"steps": 500})
    assert state.load() is None
    state.save(300, {"delta": torch.arange(4.0)})
    loaded = context.state("item 1", {"steps": 500}).load()
    assert loaded is not None
    step, tensors = loaded
    assert step == 300
    assert torch.equal(tensors["delta"], torch.arange(4.0))
    assert context.state("item 1", {"steps": 501}).load() is None
    assert context.state("item 2", {"steps": 500}).load() is None
    written = state.path.read_bytes()
    state.path.write_bytes(written[: len(written) // 2])
    assert SavedState(state.path, {"steps": 500}).load() is None


def test_calibration_clips_are_transformed_in_turn(calibration_pairs: Pairs, tmp_path: Path) -> None:
    transforms = parse_transforms(["noise:snr=10", "reverb"])
    changed = augmented_pairs(calibration_pairs[:5], transforms, tmp_path)
    for i, (before, after) in enumerate(zip(calibration_pairs[:5], changed, strict=True)):
        for one, other in ((before.harmful, after.harmful), (before.safe, after.safe)):
            assert (one.media == other.media) == (i % 3 == 0)
            assert one.question == other.question
        names = {path.audio.parent.name for path in (after.harmful, after.safe)}
        assert len(names) == 1, "both clips of a pair meet the same transform"
    with pytest.raises(AttackError, match="changes more than clips"):
        parse_transforms(["prefix"])


def test_earlier_turns(test_pairs: Pairs, tmp_path: Path) -> None:
    (item,) = run(ATTACKS.parse("multi-turn:2"), [test_pairs[0].harmful], tmp_path)
    assert [message["role"] for message in item.turn("t")] == ["user", "assistant", "user", "assistant", "user"]
    with pytest.raises(ManifestError, match="must be a list of"):
        replace(item, extra={"earlier": ["x"]}).earlier  # noqa: B018
