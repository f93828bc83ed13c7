"""The models and judges of a process: each is loaded once, however many runs and tasks use it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from sarsteer.judges.base import Judge
from sarsteer.models.interface import LanguageModel
from sarsteer.runtime.shared import SharedJudge, SharedModel


class Pool:
    """Loaded models, by name and options, and judges, by spec. Safe to use from several threads."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], SharedModel] = {}
        self._judges: dict[str, SharedJudge] = {}
        self._lock = threading.Lock()

    def model(self, name: str, options: Mapping[str, Any], batch_size: int) -> SharedModel:
        """The model with that name, loaded unless it was loaded with these options before.

        Raises:
            ModelError: it cannot be loaded.

        """
        from sarsteer.models.loading import open_model

        with self._lock:
            key = name, json.dumps(options, sort_keys=True)
            if key not in self._models:
                self._models[key] = SharedModel(open_model(name, **options), batch_size)
            shared = self._models[key]
        shared.batch_size = batch_size
        return shared

    def add_model(self, model: LanguageModel, name: str | None = None, **options: Any) -> None:
        """Use a model that is already loaded for ``name`` (its own by default) and these options."""
        with self._lock:
            self._models[name or model.name, json.dumps(options, sort_keys=True)] = SharedModel(model, 1)

    def judge(self, spec: str, judge: Judge) -> SharedJudge:
        """The judge with this spec: ``judge``, unless there is one already.

        Raises:
            JudgeError: its model cannot be loaded, or a file is missing.

        """
        with self._lock:
            if spec not in self._judges:
                judge.load()
                self._judges[spec] = SharedJudge(judge)
            return self._judges[spec]

    def close(self) -> None:
        """Remove the steering of every model, and forget models and judges."""
        with self._lock:
            for shared in self._models.values():
                shared.answerer.close()
            self._models.clear()
            self._judges.clear()
