"""The settings of a search: documented defaults, and one-line errors that name the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sarsteer.errors import TuningError
from sarsteer.tuning.config import DEFAULT_FILE, SearchConfig, SpaceConfig, load_config


def test_the_default_file_has_every_key_at_its_default() -> None:
    assert load_config(DEFAULT_FILE) == SearchConfig() == load_config(None)
    lines = DEFAULT_FILE.read_text(encoding="utf-8").splitlines()
    keys = {line.split(" = ")[0]: line for line in lines if " = " in line and not line.startswith("#")}
    names = {name.partition(".")[2] for name in SearchConfig().to_json()}
    assert set(keys) == names
    assert all(" # " in line for line in keys.values()), "each key has a comment"


def test_a_file_with_some_keys(tmp_path: Path) -> None:
    path = tmp_path / "tune.toml"
    path.write_text('[space]\nlayers = "weights"\nlambda = [1, 1]\n[split]\ntune_share = 0.25\n')
    config = load_config(path)
    assert config.space == SpaceConfig(layers="weights", lambda_=(1.0, 1.0))
    assert config.split.tune_share == 0.25
    assert config.surrogate == SearchConfig().surrogate
    assert config.to_json()["space.lambda"] == [1.0, 1.0]
    assert set(config.to_json()) == {
        f"{section.name}.{key.name.rstrip('_')}"
        for section in dataclasses.fields(SearchConfig)
        for key in dataclasses.fields(getattr(config, section.name))
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[space]\npsh = [0, 1]", "unknown key space.psh; use one of space.layers, space.gate, space.push"),
        ("[spce]\n", "unknown key spce; use one of split, space, surrogate, sampler"),
        ("split = 0.5", "split must be a section, [split], not 0.5"),
        ("[split]\ntune_share = 1.0", "split.tune_share must be a number between 0 and 1, not 1.0"),
        ('[split]\ntune_share = "half"', "split.tune_share must be a number, not 'half'"),
        ("[split]\ntune_share = true", "split.tune_share must be a number, not True"),
        ("[split]\ntune_share = nan", "split.tune_share must be a number, not nan"),
        ('[space]\nlayers = "best"', "space.layers must be one of all, range, weights, not 'best'"),
        ("[space]\nlayers = 3", "space.layers must be a text, not 3"),
        ("[space]\npush = [0.4, 0.01]", "space.push must be two numbers above 0, the lower first, not [0.4, 0.01]"),
        ("[space]\npush = 0.4", "space.push must be a list of two numbers, not 0.4"),
        ("[space]\nlambda = [2, 1]", "space.lambda must be two numbers, the lower first, not [2.0, 1.0]"),
        ("[space]\ngate_fpr = [0, 1]", "space.gate_fpr must be two numbers between 0 and 1"),
        ("[space]\ngate = 1", "space.gate must be true or false, not 1"),
        ("[space]\ngate_layers = 0", "space.gate_layers must be a whole number from 1, not 0"),
        ("[space]\nweight_knots = 2.5", "space.weight_knots must be a whole number, not 2.5"),
        ("[surrogate]\nsteepness = 0", "surrogate.steepness must be a number above 0, not 0.0"),
        ("[surrogate]\nmin_agreement = 2", "surrogate.min_agreement must be a number from 0 to 1, not 2.0"),
        ("[sampler]\nstartup_trials = 0", "sampler.startup_trials must be a whole number from 1, not 0"),
        ("[space", "is not a valid TOML file"),
    ],
)
def test_invalid_files_are_named_with_their_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "tune.toml"
    path.write_text(text)
    with pytest.raises(TuningError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {says}")
    assert "\n" not in message


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for name, says in (("bytes.toml", "is not a valid TOML file"), ("none.toml", "cannot be read")):
        with pytest.raises(TuningError, match=says):
            load_config(tmp_path / name)


def test_the_command_prints_the_default_file() -> None:
    from sarsteer.cli.main import app

    result = CliRunner().invoke(app, ["tune", "--print-config"])
    assert result.exit_code == 0
    assert result.output == DEFAULT_FILE.read_text(encoding="utf-8")
