"""The state of a search on disk: Optuna studies in one SQLite file beside the output. A killed run resumes from it.

Each trial has its own sampler, seeded by the number of trials before it, so a resumed run draws the same configurations
as an uninterrupted one.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sarsteer.errors import MissingExtraError, TuningError
from sarsteer.tuning.configuration import Configuration
from sarsteer.tuning.front import Candidate, MeasuredPoint
from sarsteer.tuning.measure import Measured
from sarsteer.tuning.scores import SurrogateScores
from sarsteer.tuning.space import Space

FILE_NAME = "study.db"
SURROGATE, GENERATION = "surrogate", "generation"
"""Names of the two studies: estimates, and measurements."""
RECORD = "record"
CALIBRATED, WHOLE, ANSWERS, VERDICTS = "calibrated.safetensors", "whole.safetensors", "answers.json", "verdicts.jsonl"
_SETTINGS_FILES = (CALIBRATED, WHOLE, ANSWERS)
"""Files beside the study that are valid only for its settings; verdicts are valid for any."""
SEARCH_VERSION = 3
"""Version of the search: space, estimates, stored measurements, and the order of trials. A folder of another version is
refused, because its numbers must not be mixed with these."""

Values = tuple[float, float]


class SearchState:
    """The studies of one run.

    Args:
        folder: the folder of ``study.db``, which is created if it does not exist.
        settings: everything that trials depend on; JSON values.

    Raises:
        TuningError: the file is not a study, or is from a run with other settings.
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
            # 60 seconds to wait for another process's lock
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
            self.studies: dict[str, Any] = {
                name: optuna.create_study(
                    study_name=name, storage=storage, load_if_exists=True, directions=["minimize", "minimize"]
                )
                for name in (SURROGATE, GENERATION)
            }
        except (SQLAlchemyError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TuningError(
                f"is not a usable study ({reason}); delete {folder} to start from scratch", place=str(path)
            ) from None
        self._check(path, {"search_version": SEARCH_VERSION, **settings})

    def _check(self, path: Path, settings: Mapping[str, Any]) -> None:
        study = self.studies[SURROGATE]
        stored = study.user_attrs.get("settings")
        if stored is None:
            if left := sorted(other.name for other in path.parent.iterdir() if other.name in _SETTINGS_FILES):
                raise TuningError(
                    f"contains {', '.join(left)} of a run whose study is missing; delete the folder to start from "
                    "scratch",
                    place=str(path.parent),
                )
            study.set_user_attr("settings", dict(settings))
            return
        if stored.get("search_version") != settings["search_version"]:
            raise TuningError(
                "is from a sarsteer with another version of the search; delete the folder to start from scratch",
                place=str(path.parent),
            )
        changed = sorted(name for name in {*settings, *stored} if stored.get(name) != settings.get(name))
        if changed:
            raise TuningError(
                f"is from a run with another {', '.join(changed)}; delete the folder to start from scratch, or use the "
                "old settings",
                place=str(path.parent),
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
        objective: Callable[[Configuration], tuple[Values, dict[str, Any]]],
        trials: int,
        seed: int,
        starts: Sequence[Configuration],
        on_trial: Callable[[int], None],
        startup_trials: int = 20,
    ) -> None:
        """Run trials until ``trials`` are complete.

        Args:
            name: of the study.
            space: the search space.
            objective: returns two values to minimize, and what else to store.
            trials: total number of trials.
            seed: of the sampler.
            starts: the first configurations; each must steer its layers alike.
            on_trial: called with the number of complete trials after each one.
            startup_trials: number of random trials, starting points included, before the TPE sampler.

        """
        import optuna

        study = self.studies[name]
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # interrupted by a kill
        done = len(self.finished(name))
        while done < trials:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler: Any = optuna.samplers.TPESampler(
                    seed=seed * 1_000_003 + done, multivariate=True, group=True, n_startup_trials=startup_trials
                )
                fixed = space.params(starts[done]) if done < len(starts) else space.fixed(done)
                if fixed:
                    sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
            study.sampler = sampler
            trial = study.ask()
            began = time.perf_counter()
            configuration = space.draw(trial)
            values, attributes = objective(configuration)
            record = {"setting": configuration.to_json(), "seconds": time.perf_counter() - began, **attributes}
            trial.set_user_attr(RECORD, record)  # one attribute, because each is a write to disk
            study.tell(trial, values)
            done += 1
            on_trial(done)

    def add(self, point: MeasuredPoint) -> None:
        """Store a measurement by generation."""
        import optuna

        record = {"setting": point.configuration.to_json(), "measured": point.measured.to_json()}
        values = [point.measured.asr.value, point.measured.cost]
        self.studies[GENERATION].add_trial(optuna.trial.create_trial(values=values, user_attrs={RECORD: record}))

    def records(self, name: str) -> list[dict[str, Any]]:
        """The record of each completed trial, in order."""
        return [trial.user_attrs[RECORD] for trial in self.finished(name)]

    def candidates(self) -> list[Candidate]:
        """What the surrogate estimated, in order."""
        return [
            Candidate(
                Configuration.from_json(record["setting"]), SurrogateScores(**record["scores"]), record["seconds"]
            )
            for record in self.records(SURROGATE)
        ]

    def points(self) -> list[MeasuredPoint]:
        """What was measured by generation, in order."""
        return [
            MeasuredPoint(Configuration.from_json(record["setting"]), Measured.from_json(record["measured"]))
            for record in self.records(GENERATION)
        ]
