"""The study on disk: resumed after a kill, and refused if it is from another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from sarsteer.errors import SarsteerError, TuningError
from sarsteer.steering.artifact import Steering
from sarsteer.tuning.config import SpaceConfig
from sarsteer.tuning.configuration import Configuration, own_gate
from sarsteer.tuning.space import Space
from sarsteer.tuning.study import SURROGATE, SearchState

SETTINGS = {"model": "m", "pairs": "p", "seed": 0}


def _objective(configuration: Configuration) -> tuple[tuple[float, float], dict[str, Any]]:
    strength = configuration.strength
    assert strength.alpha is not None
    assert strength.k is not None
    return (1 / (1 + strength.alpha), strength.alpha * (1 + strength.k)), {}


def _search(folder: Path, space: Space, trials: int, stop_at: int | None = None) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    state = SearchState(folder, SETTINGS)
    calls = 0

    def objective(configuration: Configuration) -> tuple[tuple[float, float], dict[str, Any]]:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt  # leaves the trial running, like a kill
        return _objective(configuration)

    starts = [Configuration.uniform(space.steering, 0.1, 5)]
    state.search(SURROGATE, space, objective, trials, 3, starts, lambda _: None)
    return [record["setting"] for record in state.records(SURROGATE)]


@pytest.mark.slow
def test_an_interrupted_search_draws_the_same_configurations(steering: Steering, tmp_path: Path) -> None:
    space = Space(steering, gates=own_gate(steering))
    whole = _search(tmp_path / "whole", space, 24)
    for stop in (1, 22):  # at a starting point, and after the random trials
        with pytest.raises(KeyboardInterrupt):
            _search(tmp_path / "interrupted", space, 24, stop_at=stop)
    assert _search(tmp_path / "interrupted", space, 24) == whole
    assert whole[0]["alpha"] == 0.1
    assert len({str(setting) for setting in whole}) > 20


def test_a_study_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    SearchState(tmp_path, SETTINGS)
    SearchState(tmp_path, SETTINGS)
    with pytest.raises(TuningError, match="another pairs, seed; delete the folder"):
        SearchState(tmp_path, {**SETTINGS, "pairs": "q", "seed": 1})


def test_a_study_of_another_search_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sarsteer.tuning.study.SEARCH_VERSION", 2)
    SearchState(tmp_path, SETTINGS)
    monkeypatch.undo()
    with pytest.raises(TuningError, match="another version of the search; delete the folder"):
        SearchState(tmp_path, SETTINGS)


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"not a database, but long enough to be read" * 40)
    with pytest.raises(SarsteerError, match="is not a usable study"):
        SearchState(tmp_path, SETTINGS)


def test_files_without_their_study_are_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text("{}")
    with pytest.raises(TuningError, match=r"contains answers.json of a run whose study is missing"):
        SearchState(tmp_path, SETTINGS)


def test_a_study_can_get_more_trials(tmp_path: Path, steering: Steering) -> None:
    state = SearchState(tmp_path, {})
    space = Space(steering, SpaceConfig(layers="all"))
    for many in (3, 5, 4):
        state.search(SURROGATE, space, _objective, many, 0, [], lambda _: None)
    assert len(state.finished(SURROGATE)) == 5
