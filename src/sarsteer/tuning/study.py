"""The search's memory: Optuna studies in one SQLite file beside the output, which outlives a kill.

Each trial has a sampler of its own, seeded by the number of trials before it: a run that was killed and one that was
not then draw the same settings.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sarsteer.errors import MissingExtraError, TuningError
from sarsteer.tuning.front import Point
from sarsteer.tuning.measure import Measured
from sarsteer.tuning.setting import Setting
from sarsteer.tuning.space import Space

FILE_NAME = "study.db"
SURROGATE, GENERATION = "surrogate", "generation"
RECORD = "record"
CALIBRATED, WHOLE, ANSWERS, VERDICTS = "calibrated.safetensors", "whole.safetensors", "answers.json", "verdicts.jsonl"
KEPT = (CALIBRATED, WHOLE, ANSWERS)
"""Files beside the study that hold only for its settings; verdicts hold for any."""
SEARCH_VERSION = 2
"""Of what a study's numbers mean: the space, the surrogate's estimates, what is kept of a measurement, and the rules of
what is tried next. Raised with any of them, so that a folder of other rules is refused by name and not mixed."""
STARTUP_TRIALS = 20
"""Drawn at random, with the starting points, before the sampler has anything to go by."""

Values = tuple[float, float]


class Memory:
    """The studies of one run.

    Args:
        folder: where the file lies, or is made.
        settings: all that trials depend on; JSON values.

    Raises:
        TuningError: the file is of a run with other settings, or no study.
        MissingExtraError: Optuna is not installed.

    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import optuna
        except ImportError:
            raise MissingExtraError("tuning", "tune") from None
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = folder / FILE_NAME
        try:
            # seconds to wait for another process's lock
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
            self.studies: dict[str, Any] = {
                name: optuna.create_study(
                    study_name=name, storage=storage, load_if_exists=True, directions=["minimize", "minimize"]
                )
                for name in (SURROGATE, GENERATION)
            }
        except (SQLAlchemyError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise TuningError(
                f"{path}: is no study that can be used ({first}); delete {folder} to start anew"
            ) from None
        self._check(path, settings)

    def _check(self, path: Path, settings: Mapping[str, Any]) -> None:
        study = self.studies[SURROGATE]
        found = study.user_attrs.get("settings")
        if found is None:
            if left := sorted(other.name for other in path.parent.iterdir() if other.name in KEPT):
                raise TuningError(
                    f"{path.parent}: holds {', '.join(left)} of a run whose study is gone; delete it to start anew"
                )
            study.set_user_attr("settings", dict(settings))
            return
        changed = sorted(name for name in {*settings, *found} if found.get(name) != settings.get(name))
        if changed:
            raise TuningError(
                f"{path}: is of a run with another {', '.join(changed)}; "
                f"delete {path.parent} to start anew, or use the old settings"
            )

    def finished(self, name: str) -> list[Any]:
        """Completed trials, in order."""
        from optuna.trial import TrialState

        trials: list[Any] = self.studies[name].get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return trials

    def search(
        self,
        name: str,
        space: Space,
        objective: Callable[[Setting], tuple[Values, dict[str, Any]]],
        trials: int,
        seed: int,
        starts: Sequence[Setting],
        on_trial: Callable[[int], None],
    ) -> None:
        """Run trials until ``trials`` are complete.

        Args:
            name: of the study.
            space: what settings are drawn from.
            objective: two values to minimise, and what else to remember.
            trials: how many there should be in all.
            seed: of the sampler.
            starts: settings that are tried first; each must steer all layers alike.
            on_trial: called with the number of complete trials, after each.

        """
        import optuna

        study = self.studies[name]
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # what a kill cut off
        done = len(self.finished(name))
        while done < trials:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler: Any = optuna.samplers.TPESampler(
                    seed=seed * 1_000_003 + done, multivariate=True, group=True, n_startup_trials=STARTUP_TRIALS
                )
                fixed = space.params(starts[done]) if done < len(starts) else space.fixed(done)
                if fixed:
                    sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
            study.sampler = sampler
            trial = study.ask()
            began = time.perf_counter()
            setting = space.draw(trial)
            values, attributes = objective(setting)
            record = {"setting": setting.to_json(), "seconds": time.perf_counter() - began, **attributes}
            trial.set_user_attr(RECORD, record)  # in one: each is a write to the disk
            study.tell(trial, values)
            done += 1
            on_trial(done)

    def add(self, setting: Setting, measured: Measured) -> None:
        """Remember a measurement by generation."""
        import optuna

        record = {"setting": setting.to_json(), "measured": measured.to_json()}
        self.studies[GENERATION].add_trial(
            optuna.trial.create_trial(values=[measured.asr.value, measured.cost], user_attrs={RECORD: record})
        )

    def records(self, name: str) -> list[dict[str, Any]]:
        """What was remembered of each completed trial, in order."""
        return [trial.user_attrs[RECORD] for trial in self.finished(name)]

    def points(self) -> list[Point]:
        """What was measured by generation, in order."""
        return [
            Point(Setting.from_json(record["setting"]), Measured.from_json(record["measured"]))
            for record in self.records(GENERATION)
        ]
