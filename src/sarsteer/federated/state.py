"""What a server keeps on disk: who joined, and the sums of finished rounds. A killed server continues from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sarsteer.federated.coordinator import Round
from sarsteer.federated.errors import FederationError
from sarsteer.federated.plan import Plan
from sarsteer.federated.tally import Tally
from sarsteer.files import atomic_path, write_text
from sarsteer.steering.pooled.sums import Sums


class ServerState:
    """The state of one calibration in ``folder``.

    Attributes:
        tokens: of each site that joined; a site process keeps its token.
        rounds: the finished ones.

    Raises:
        FederationError: the folder is of another plan, or damaged.

    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        self.tokens: dict[str, str] = {}
        self.rounds: list[Round] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._load()

    @property
    def _file(self) -> Path:
        return self._folder / "state.json"

    def join(self, name: str, token: str) -> None:
        """Record that a site joined."""
        self.tokens[name] = token
        self._save()

    def add(self, finished: Round) -> None:
        """Record a finished round."""
        from safetensors.torch import save_file

        path = self._folder / f"round-{len(self.rounds)}.safetensors"
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in finished.sums.items()}, temporary)
        self.rounds.append(finished)
        self._save()

    def _save(self) -> None:
        rounds = [
            {
                "query": one.query,
                "names": list(one.sums),
                "sites": list(one.sites),
                "left_out": dict(one.left_out),
                "tallies": [tally.to_json() for tally in one.tallies],
            }
            for one in self.rounds
        ]
        write_text(self._file, json.dumps({"plan": self._plan.digest, "tokens": self.tokens, "rounds": rounds}))
        self._file.chmod(0o600)

    def _load(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            stored: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            if stored["plan"] != self._plan.digest:
                raise FederationError("is the state of another plan; choose another folder", place=str(self._folder))
            self.tokens = dict(stored["tokens"])
            for index, one in enumerate(stored["rounds"]):
                tensors = load_file(self._folder / f"round-{index}.safetensors")
                sums = Sums({name: tensors[name] for name in one["names"]})
                tallies = tuple(Tally.from_json(stored) for stored in one["tallies"])
                self.rounds.append(Round(one["query"], sums, tuple(one["sites"]), one["left_out"], tallies))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            raise FederationError(
                "is damaged; choose another folder and start again", place=str(self._folder)
            ) from None
