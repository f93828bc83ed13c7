"""Searches as a user runs them, on the embedded model's speech."""

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
from sarsteer.judges import parse_judge
from sarsteer.tuning.config import SearchConfig, SplitConfig, SurrogateConfig
from sarsteer.tuning.configuration import Configuration
from sarsteer.tuning.options import TuningOptions
from sarsteer.tuning.run import tune


def command(out: Path, *more: object) -> list[str]:
    config = out.with_name("tune.toml")
    config.write_text("[space]\ngate = false\n")
    words = ["tune", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--limit", 20, "--out", out, "--trials", 6,
             "--generations", 3, "--max-new-tokens", 24, "--max-over-refusal", 10, "--max-broken", 10, "--config",
             config, *more]  # fmt: skip
    return [sys.executable, "-m", "sarsteer.cli.main", *map(str, words)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "sarsteer.cli.main", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def trials(folder: Path) -> int:
    """Number of trials in the file."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True, timeout=1) as connection:
            return int(connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.slow
def test_a_killed_search_resumes_to_the_same_result(tmp_path: Path) -> None:
    killed = tmp_path / "killed.safetensors"
    process = subprocess.Popen(command(killed), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while trials(tmp_path / "killed.safetensors.tuning") < 4 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not killed.exists()
    resumed = subprocess.run(command(killed, "--json"), capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    # plain lines on standard error: each stage, and each measurement
    lines = resumed.stderr.splitlines()
    for stage in ("Answering undefended: 0 of 3", "Searching by first tokens: 6 of 6", "Calibrating on all: 20 of 20"):
        assert stage in lines
    assert [line.split(": α")[0] for line in lines if line.startswith("measured")] == [
        f"measured {n}" for n in (1, 2, 3)
    ]
    assert any(line.endswith(", within the limits") for line in lines)
    whole = tmp_path / "whole.safetensors"
    chart = tmp_path / "front.png"
    plain = subprocess.run(command(whole, "--plot", chart), capture_output=True, text=True, timeout=300)
    assert plain.returncode == 0, plain.stderr
    first, second = Steering.load(killed), Steering.load(whole)
    records = [{k: v for k, v in s.metadata["tuning"].items() if k != "speed"} for s in (first, second)]
    assert records[0] == records[1]
    assert torch.equal(first.vectors(), second.vectors())
    assert json.loads(resumed.stdout)["tuning"] == first.metadata["tuning"]
    # the chosen configuration is the file's default, and is on the front
    tuning = first.metadata["tuning"]
    assert tuning["pairs"] == {"calibrating": 10, "tuning": 10}
    assert tuning["trials"] == 6
    assert tuning["generations"] == 3
    assert tuning["chosen"] in tuning["front"]
    chosen = Configuration.from_json(tuning["chosen"]["setting"])
    assert chosen.gate is None
    assert tuning["search"]["space.gate"] is False
    assert Configuration.of(first.resolve()) == chosen
    assert tuning["chosen"]["over_refusal"]["value"] - tuning["undefended"]["over_refusal"]["value"] <= 0.1 + 1e-9
    assert tuning["chosen"]["broken"]["value"] <= 0.1
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert "★" in plain.stdout
    assert "measure it on others" in plain.stderr
    # other settings in the same folder are refused, and named
    other = subprocess.run(command(killed, "--seed", 7, "--overwrite"), capture_output=True, text=True, timeout=300)
    assert other.returncode == 2
    assert "is from a run with another seed" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


def refused(says: str, out: Path, *arguments: object, model: str = "sarsteer-tiny") -> None:
    done = run("tune", model, "--pairs", "sarsteer-tiny", "--out", out, *arguments)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert says in done.stderr
    assert not out.exists()


@pytest.mark.slow
def test_mistakes_are_reported_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    refused("unknown judge 'nobody'", out, "--judge", "nobody")
    config = tmp_path / "tune.toml"
    config.write_text('[space]\nlayers = "best"\n')
    refused("tune.toml: space.layers must be one of all, range, weights, not 'best'", out, "--config", config)
    refused("cannot be read", out, "--config", tmp_path / "none.toml")
    config.unlink()
    refused("cannot draw into .txt", out, "--plot", tmp_path / "front.txt")
    refused("must be between 0 and 100 %", out, "--max-broken", -1)
    refused("must be from 0.5 to below 1", out, "--confidence", 1)
    refused("openai/gpt answers over an API", out, model="openai/gpt")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def options() -> TuningOptions:
    return TuningOptions(trials=6, generations=3, max_new_tokens=24)


@pytest.mark.slow
def test_impossible_searches_are_refused(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, options: TuningOptions
) -> None:
    judge = parse_judge("embedded")
    with pytest.raises(TuningError, match="19 pairs split into"):
        tune(embedded, calibration_pairs[:19], judge, tmp_path, options)
    unequal = replace(options, search=SearchConfig(split=SplitConfig(0.1)))
    with pytest.raises(TuningError, match="18 to calibrate on and 2 to tune on"):
        tune(embedded, calibration_pairs[:20], judge, tmp_path, unequal)
    # the judge counts answers that end after three tokens as broken, also without steering
    with pytest.raises(TuningError, match=r"undefended model breaks 9.\.. %|undefended model breaks 100"):
        tune(embedded, calibration_pairs[:20], judge, tmp_path, replace(options, max_new_tokens=3))


def test_two_runs_on_one_folder_are_refused(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, options: TuningOptions
) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / "lock"), pytest.raises(TuningError, match="another run is using it"):
        tune(embedded, calibration_pairs[:20], parse_judge("embedded"), tmp_path, options)


class AlwaysRefused:
    """Judges every answer as a refusal."""

    name, signature, at_once = "always-refused", "always-refused/1", 64

    def judge(self, items: Sequence[Any]) -> list[Any]:
        from sarsteer.judges import Verdict

        return [Verdict("refused", "") for _ in items]


@pytest.mark.slow
def test_a_model_that_never_complies_is_refused(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, options: TuningOptions
) -> None:
    with pytest.raises(TuningError, match="there is nothing to lower"):
        tune(embedded, calibration_pairs[:20], AlwaysRefused(), tmp_path, options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_search_by_generation_only(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, options: TuningOptions
) -> None:
    """Without the surrogate, with gates: the third starting point has one."""
    from sarsteer.tuning.front import Limits

    search = SearchConfig(surrogate=SurrogateConfig(enabled=False))
    options = replace(options, search=search, limits=Limits(1.0, 1.0))
    tuned = tune(embedded, calibration_pairs[:40], parse_judge("embedded"), tmp_path, options)
    assert tuned.candidates == ()
    assert len(tuned.points) == 3
    assert [point.configuration.gate is None for point in tuned.points] == [True, True, False]
    assert tuned.chosen in tuned.front
    assert tuned.steering.metadata["pairs"] == 40, "the vectors come from all pairs"
    assert tuned.steering.gate_by_default == (tuned.chosen.configuration.gate is not None)
    gated = tuned.points[2].configuration
    assert gated.gate is not None
    assert gated.strength.layer_weights is not None
    for layer, weight in enumerate(gated.strength.layer_weights):
        assert (weight > 0) == (layer > gated.gate.layer)
