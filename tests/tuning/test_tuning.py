"""Searches as a user runs them, on the embedded model's real speech; and the surrogate held against generation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("optuna")

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs
from sarsteer.errors import TuningError
from sarsteer.judges import make_judge
from sarsteer.prompts import INSTRUCTION
from sarsteer.tuning.continuations import Continuations
from sarsteer.tuning.gates import fit_gates, last_tokens
from sarsteer.tuning.layer_study import study_layers
from sarsteer.tuning.measure import Measurer
from sarsteer.tuning.references import answer, hear
from sarsteer.tuning.run import Options, tune
from sarsteer.tuning.setting import Setting, own_gate
from sarsteer.tuning.space import Space
from sarsteer.tuning.study import SURROGATE, Memory
from sarsteer.tuning.surrogate import Surrogate, prepare

N = 12
"""Tuning pairs: the 24 first calibrated the fixture."""


@pytest.fixture(scope="module")
def pairs(calibration_pairs: Pairs) -> Pairs:
    return calibration_pairs[24 : 24 + N]


@pytest.fixture(scope="module")
def surrogate(embedded: sarsteer.AudioLanguageModel, steering: Steering, pairs: Pairs) -> Surrogate:
    return prepare(embedded, steering, pairs, make_judge("embedded"), max_new_tokens=32)


# ---- the surrogate against what generation does ----------------------------------------------------------------------


@pytest.mark.parametrize("gated", [False, True])
def test_continuations_are_what_generation_under_the_hooks_computes(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, pairs: Pairs, gated: bool
) -> None:
    """Each answer given back to itself: the logits of every step, of prompts of unlike lengths, gated and not."""
    prompts = embedded.prepare([item.turn(INSTRUCTION) for item in (*pairs.harmful[:3], *pairs.safe[:3])])
    setting = Setting.of(steering, 0.12, 3, 1.0, 0.2 if gated else None)
    gate = setting.gate(own_gate(steering))
    answers, logits = [], []
    with setting.defaults_of(steering).on(embedded):
        for prompt in prompts:
            out = embedded.module.generate(
                **embedded.collate([prompt]), max_new_tokens=8, min_new_tokens=8, do_sample=False, output_logits=True,
                return_dict_in_generate=True, temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
            answers.append(out.sequences[0, -8:])
            logits.append(torch.cat(out.logits))
    factors = None
    if gate is not None:
        factors = gate.strength(embedded.last_token_activations(prompts)[:, gate.layer])
        assert 0 < float(factors.sum()) < len(prompts), "rows of both kinds, or nothing is tested"
    continuations = Continuations(embedded, prompts, answers, batch_size=4)
    for _ in range(2):  # the second time from the caches that the first one left
        for rows, found in continuations.run(setting.alpha * setting.vectors(steering), factors):
            for place, row in enumerate(rows):
                # float32 sums in another order: a batch of four against single rows, one forward against eight
                torch.testing.assert_close(found[place, :8], logits[row], rtol=1e-3, atol=2e-3)


def test_unsteered_texts_hold_and_nothing_over_refuses(surrogate: Surrogate) -> None:
    scores = surrogate.score(None)
    assert scores.broken == 0
    assert scores.over_refusal < 0.1
    assert scores.asr > 0.8


def test_the_refusal_tokens_are_the_models_own(surrogate: Surrogate, embedded: sarsteer.AudioLanguageModel) -> None:
    """The embedded model has one sentence for it: "I am sorry, but I cannot assist with that."."""
    assert [embedded.tokenizer.decode([token]) for token in surrogate.tokens.ids] == ["I"]
    assert surrogate.tokens.usable


def test_the_surrogate_ranks_settings_as_generation_does(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, pairs: Pairs, surrogate: Surrogate
) -> None:
    requests = hear(embedded, pairs, INSTRUCTION, "I cannot assist with that.", 16, lambda *_: None)
    weak, strong = Setting.of(steering, 0.05, 3), Setting.of(steering, 0.2, 3)
    gated = Setting.of(steering, 0.2, 3, 1.0, 0.05)
    with Measurer(
        embedded, Space(steering, gates=own_gate(steering)), pairs, requests, make_judge("embedded"), 32, 16
    ) as measurer:
        for setting in (weak, strong, gated):
            scores, measured = surrogate.score(setting), measurer.measure(setting)
            # of 12 requests two may fall on the other side: the estimate is no hard decision
            assert scores.asr == pytest.approx(measured.asr.value, abs=2.5 / N)
            assert scores.cost == pytest.approx(measured.cost, abs=0.25)
    assert surrogate.score(weak).asr > surrogate.score(strong).asr
    assert not embedded.steered, "the model is left unsteered"


def test_whole_prefills_estimate_the_same_as_reused_prefixes(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, pairs: Pairs, surrogate: Surrogate, monkeypatch: Any
) -> None:
    """A family whose prefixes cannot be reused goes through the real hooks: first tokens alone."""
    monkeypatch.setattr(embedded, "family", replace(embedded.family, prefix_reuse=False))
    with prepare(embedded, steering, pairs, make_judge("embedded"), max_new_tokens=4) as other:
        assert not other.reuses_prefixes
        for setting in (Setting.of(steering, 0.12, 3), Setting.of(steering, 0.2, 3, 1.0, 0.1), None):
            one, two = surrogate.score(setting), other.score(setting)
            assert two.asr == pytest.approx(one.asr, abs=1e-3)  # float32 in another order, through a steep logistic
            assert two.over_refusal == pytest.approx(one.over_refusal, abs=1e-3)
            assert two.broken == 0


def test_the_layer_study_takes_apart_what_the_whole_does(surrogate: Surrogate, steering: Steering) -> None:
    setting = Setting.of(steering, 0.1, 3)
    study = study_layers(surrogate, Space(steering), setting)
    assert [row.layer for row in study.rows] == list(range(8))
    assert study.whole == surrogate.score(setting)
    one = tuple(float(layer == 4) for layer in range(8))
    assert study.rows[4].alone == surrogate.score(replace(setting, alpha=study.rows[4].alone_alpha, layer_weights=one))
    space = Space(steering, gates=own_gate(steering))
    pushes = [
        row.alone_alpha * space.push_at_one(3, 1.0, tuple(float(i == row.layer) for i in range(8)))
        for row in study.rows
    ]
    assert pushes == pytest.approx([0.1 * space.push_at_one(3, 1.0, (1.0,) * 8)] * 8)
    gated = study_layers(surrogate, space, Setting.of(steering, 0.1, 3, 1.0, 0.1))
    assert steering.gate is not None
    assert [row.layer for row in gated.rows] == list(range(steering.gate.layer + 1, 8))


def test_a_gated_file_is_studied_as_it_steers(
    embedded: sarsteer.AudioLanguageModel,
    steering: Steering,
    calibration_pairs: Pairs,
    test_pairs: Pairs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its own gate with a threshold of its own, and the layers above it, though its weights are 1 everywhere."""
    from sarsteer.cli.main import app

    fitted = fit_gates(last_tokens(embedded, calibration_pairs[:24], INSTRUCTION, 16), [3])[3]
    gate = replace(fitted, threshold=0.5, limit=None, metadata={})  # no rate to set the threshold by
    chosen = steering.with_gate(gate).with_defaults(alpha=0.2, k=3, gate=True)
    path = chosen.save(tmp_path / "gated.safetensors")
    few = ("--pairs", "sarsteer-tiny", "--limit", "6", "--json")
    app(["layers", "sarsteer-tiny", "--steering", str(path), *few], standalone_mode=False)
    told = capsys.readouterr()
    assert told.err == "", "the default is the test split, which shares nothing with calibration"
    study = json.loads(told.out)
    assert study["setting"]["layer_weights"] == [0.0] * 4 + [1.0] * 4
    assert [row["layer"] for row in study["rows"]] == [4, 5, 6, 7]
    with prepare(embedded, chosen, test_pairs[:6], make_judge("embedded")) as surrogate:
        setting = Setting(0.2, 3, 1.0, (0.0,) * 4 + (1.0,) * 4, None, 3)
        whole = surrogate.score(setting)
        ungated = surrogate.score(replace(setting, gate_layer=None))
        everywhere = surrogate.score(replace(setting, layer_weights=(1.0,) * 8))
    assert study["whole"] == pytest.approx(vars(whole), abs=1e-6)
    for other in (ungated, everywhere):
        assert study["whole"] != pytest.approx(vars(other), abs=1e-3)
    # what the real hooks make of it, in whole prefills
    embedded.family, family = replace(embedded.family, prefix_reuse=False), embedded.family
    try:
        with prepare(embedded, chosen, test_pairs[:6], make_judge("embedded"), max_new_tokens=4) as hooked:
            real = hooked.score(replace(setting, layer_weights=(1.0,) * 8))
    finally:
        embedded.family = family
    assert study["whole"]["asr"] == pytest.approx(real.asr, abs=1e-3)


@pytest.mark.parametrize(("split", "limit", "shared"), [("calibration", 3, 3), ("calibration", 26, 24), ("test", 3, 0)])
def test_pairs_that_were_calibrated_on_are_noticed(
    steering: Steering, calibration_pairs: Pairs, test_pairs: Pairs, split: str, limit: int, shared: int
) -> None:
    """The steering is of the first 24: any of them are found, however many are looked at."""
    from sarsteer.cli.layers import _calibrated_on

    chosen = (calibration_pairs if split == "calibration" else test_pairs)[:limit]
    assert _calibrated_on(steering, chosen, "sarsteer-tiny") == shared


def test_answers_end_where_generation_ends(embedded: sarsteer.AudioLanguageModel, pairs: Pairs) -> None:
    prompts = embedded.prepare([item.turn(INSTRUCTION) for item in pairs.safe[:4]])
    said = answer(embedded, prompts, 32, 4)
    assert list(said.texts) == embedded.generate(prompts, 32)
    for text, tokens in zip(said.texts, said.tokens, strict=True):
        assert embedded.tokenizer.decode(tokens, skip_special_tokens=True).strip() == text
        assert embedded.module.generation_config.eos_token_id in tokens
        assert tokens.count(embedded.module.generation_config.eos_token_id) == 1


# ---- whole runs ------------------------------------------------------------------------------------------------------


def command(out: Path, *more: object) -> list[str]:
    given = ["tune", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--limit", 20, "--out", out, "--trials", 6,
             "--generations", 3, "--max-new-tokens", 24, "--max-over-refusal", 10, "--max-broken", 10, "--no-gate",
             *more]  # fmt: skip
    return [sys.executable, "-m", "sarsteer.cli.main", *map(str, given)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "sarsteer.cli.main", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def trials(folder: Path) -> int:
    """Surrogate trials that have reached the file."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True, timeout=1) as connection:
            return int(connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_a_killed_search_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    process = subprocess.Popen(command(cut), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while trials(tmp_path / "cut.safetensors.tuning") < 4 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not cut.exists()
    resumed = subprocess.run(command(cut, "--json"), capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    # into a log go plain lines, on standard error alone: each stage, each setting that was measured
    lines = resumed.stderr.splitlines()
    for stage in ("Answering undefended: 0 of 3", "Searching by first tokens: 6 of 6", "Calibrating on all: 20 of 20"):
        assert stage in lines
    assert [line.split(": α")[0] for line in lines if line.startswith("measured")] == [
        f"measured {n}" for n in (1, 2, 3)
    ]
    assert any(line.endswith(", within the limits") for line in lines)
    whole = tmp_path / "whole.safetensors"
    picture = tmp_path / "front.png"
    plain = subprocess.run(command(whole, "--plot", picture), capture_output=True, text=True, timeout=300)
    assert plain.returncode == 0, plain.stderr
    first, second = Steering.load(cut), Steering.load(whole)
    told = [{k: v for k, v in one.metadata["tuning"].items() if k != "speed"} for one in (first, second)]
    assert told[0] == told[1]
    assert torch.equal(first.vectors(), second.vectors())
    assert json.loads(resumed.stdout)["tuning"] == first.metadata["tuning"]
    # what was chosen is what the file steers by, and is on the front
    tuning = first.metadata["tuning"]
    assert tuning["pairs"] == {"calibrating": 10, "tuning": 10}
    assert tuning["trials"] == 6
    assert tuning["generations"] == 3
    assert tuning["chosen"] in tuning["front"]
    chosen = Setting.from_json(tuning["chosen"]["setting"])
    assert first.defaults == (chosen.alpha, chosen.k, chosen.lambda_)
    assert first.default_layer_weights == chosen.layer_weights
    assert tuning["chosen"]["over_refusal"]["value"] - tuning["undefended"]["over_refusal"]["value"] <= 0.1 + 1e-9
    assert tuning["chosen"]["broken"]["value"] <= 0.1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "★" in plain.stdout
    assert "measure it on others" in plain.stderr
    # other settings in the same folder are refused, and named
    other = subprocess.run(command(cut, "--seed", 7, "--overwrite"), capture_output=True, text=True, timeout=300)
    assert other.returncode == 2
    assert "is of a run with another seed" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


def refused(says: str, out: Path, *arguments: object, model: str = "sarsteer-tiny") -> None:
    done = run("tune", model, "--pairs", "sarsteer-tiny", "--out", out, *arguments)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert says in done.stderr
    assert not out.exists()


def test_mistakes_are_told_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    refused("unknown judge 'nobody'", out, "--judge", "nobody")
    refused("use one of all, range, weights", out, "--search-layers", "best")
    refused("cannot draw into .txt", out, "--plot", tmp_path / "front.txt")
    refused("must lie between 0 and 100 %", out, "--max-broken", -1)
    refused("must be from 0.5 to below 1", out, "--confidence", 1)
    refused("openai/gpt answers over an API", out, model="openai/gpt")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def options() -> Options:
    return Options(trials=6, generations=3, max_new_tokens=24)


def test_classes_that_cannot_be_chosen_for_are_refused(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, options: Options
) -> None:
    judge = make_judge("embedded")
    with pytest.raises(TuningError, match="19 pairs split into"):
        tune(embedded, calibration_pairs[:19], judge, tmp_path, options)
    with pytest.raises(TuningError, match="tune share must lie between 0 and 1"):
        tune(embedded, calibration_pairs[:20], judge, tmp_path, replace(options, tune_share=1.0))
    # answers cut after three tokens are broken to the judge, with no steering at all
    with pytest.raises(TuningError, match=r"undefended model breaks 9.\.. %|undefended model breaks 100"):
        tune(embedded, calibration_pairs[:20], judge, tmp_path, replace(options, max_new_tokens=3))


def test_two_runs_on_one_folder_are_refused(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, options: Options
) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / "lock"), pytest.raises(TuningError, match="another run is at work there"):
        tune(embedded, calibration_pairs[:20], make_judge("embedded"), tmp_path, options)


class Shy:
    """Hears no compliance anywhere."""

    name, signature, at_once = "shy", "shy/1", 64

    def judge(self, items: Sequence[Any]) -> list[Any]:
        from sarsteer.judges import Verdict

        return [Verdict("refused", "") for _ in items]


def test_nothing_to_lower_is_said(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, options: Options
) -> None:
    with pytest.raises(TuningError, match="there is nothing to lower"):
        tune(embedded, calibration_pairs[:20], Shy(), tmp_path, options)  # type: ignore[arg-type]


def test_generation_alone_searches_too(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, options: Options
) -> None:
    """Without the surrogate, with gates; the third starting point has one, and the strongest push that is allowed."""
    from sarsteer.tuning.front import Limits

    chosen = replace(options, surrogate=False, limits=Limits(1.0, 1.0))
    tuned = tune(embedded, calibration_pairs[:20], make_judge("embedded"), tmp_path, chosen)
    assert tuned.candidates == ()
    assert len(tuned.points) == 3
    assert [point.setting.gate_layer is None for point in tuned.points] == [True, True, False]
    assert tuned.chosen in tuned.front
    steering, setting = tuned.steering, tuned.chosen.setting
    assert steering.metadata["pairs"] == 20, "the vectors are of all pairs"
    assert steering.gate_by_default == (setting.gate_layer is not None)
    gated = tuned.points[2].setting
    layer = gated.gate_layer
    assert layer is not None
    assert all((weight > 0) == (place > layer) for place, weight in enumerate(gated.layer_weights))


def test_memory_is_kept_for_more_trials(tmp_path: Path, steering: Steering) -> None:
    memory = Memory(tmp_path, {})
    space = Space(steering, "all")
    for many in (3, 5, 4):
        memory.search(SURROGATE, space, lambda s: ((s.alpha, float(s.k)), {}), many, 0, [], lambda _: None)
    assert len(memory.finished(SURROGATE)) == 5
