"""A gate that is drawn at random from several, for each request, with a secret key."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from sarsteer.data.requests import request_numbers
from sarsteer.defenses.base import DefenseContext, Requirement
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.pair_activations import pair_activations
from sarsteer.defenses.steered import steered
from sarsteer.errors import CalibrationError, EvaluationError
from sarsteer.registry import option

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.gate.gate import Gate

VARIABLE = "SARSTEER_GATE_KEY"
"""Environment variable with the key."""
KEY_FILE = "random-gate.key"
SHARE = 0.7
"""Of the calibration pairs, and of the layers that a gate may read: each gate is fitted on its own draw of both."""

DRAWS = 5
"""How many parts are tried for a gate, if the pairs of one separate too badly."""


@dataclass(frozen=True)
class RandomGate(ArtifactDefense):
    """SARSteer with one of several gates, drawn for each request; an attacker with all gates does not know which.

    The gates are fitted on random parts of the calibration pairs and of the layers. A keyed digest of the request
    selects one: the same request always gets the same gate, so a repeated request gains nothing, but a changed one
    does. The key, and thus the parts and the draws, are secret.
    """

    name: ClassVar[str] = "random-gate"
    controllable: ClassVar[bool] = False
    requires: ClassVar[frozenset[Requirement]] = ArtifactDefense.requires | {Requirement.PAIRS}

    gates: int = option(4, argument=True, help="gates to draw from")
    fpr: float | None = option(None, help="share of safe calibration requests that may open a gate; as the file's gate")
    gate: Literal["on", "hard", "logistic"] = option("on", help="mode of the gates")
    key: str | None = option(None, secret=VARIABLE, help="of the draw, at least 16 characters; random if not set")

    def check(self, available: Collection[Requirement]) -> None:
        """Raise ``EvaluationError`` if the number of gates is out of range, or something is not available."""
        if not 2 <= self.gates <= 32:
            raise EvaluationError(f"gates must be from 2 to 32, not {self.gates}", place=f"defense {self.name!r}")
        super().check(available)

    def build(self, context: DefenseContext) -> BuiltDefense:
        """Fit the gates on the calibration pairs; their activations are computed once per folder.

        Raises:
            SteeringError: the steering file has no gate.
            EvaluationError: a part of the pairs gives no gate, or the key is too short.

        """
        steering, strength = self.resolve(context)
        secret = self._secret(context)
        public = hashlib.sha256(b"which key\0" + secret).hexdigest()[:16]
        own = {} if self.refusal is None else {"refusal": self.refusal}
        members = []
        for number, gate in enumerate(self._gates(context, steering, secret)):
            one = strength.with_gate(gate)
            built = steered(self.name, one, {**one.settings, **own}, steering=steering.digest)
            members.append(replace(built, refusal=self.refusal, details={"drawn_gate": number}))
        digests = [member.settings["gate"]["digest"] for member in members]
        settings = {**members[0].settings, "gate": digests, "key": public}
        return BuiltDefense(settings, steering=steering.digest, pool=tuple(members), secret=secret)

    def _gates(self, context: DefenseContext, steering: Steering, secret: bytes) -> list[Gate]:
        from sarsteer.steering.gate.fit import TARGET_FPR, fit_gate, readable_layers

        assert steering.gate is not None, "the option gate requires one"
        stored = steering.gate.metadata.get("target_fpr", TARGET_FPR)
        target = float(stored) if self.fpr is None else self.fpr
        harmful, safe = pair_activations(context, steering.metadata["instruction"])
        assert context.pairs is not None, "build_defense checks this"
        requests = request_numbers([(pair.harmful, pair.safe) for pair in context.pairs])
        readable = readable_layers(harmful.shape[1])
        gates = []
        for number in range(self.gates):
            seed = hashlib.sha256(b"parts\0" + secret + number.to_bytes(4, "big")).digest()
            rng = np.random.default_rng(int.from_bytes(seed, "big"))
            for left in reversed(range(DRAWS)):
                rows = np.sort(rng.permutation(len(harmful))[: max(1, round(SHARE * len(harmful)))])
                layers = sorted(rng.permutation(readable)[: max(1, round(SHARE * len(readable)))].tolist())
                try:
                    some = [requests[row] for row in rows]
                    gate = fit_gate(harmful[rows], safe[rows], target, layers=layers, pair_requests=some)
                    break
                except CalibrationError as error:
                    if not left:
                        text = f"{DRAWS} parts of {len(rows)} pairs gave no gate; the last one: {error.message}"
                        raise EvaluationError(text, place=f"defense {self.name!r}") from None
            gates.append(gate if self.gate == "on" else gate.with_mode(self.gate))
        return gates

    def _secret(self, context: DefenseContext) -> bytes:
        """The operator's key, else one that is made once for each run's folder, so that a resumed run draws alike."""
        given = self.key or os.environ.get(VARIABLE)
        if given is not None:
            if len(given) < 16:
                text = f"{VARIABLE} has {len(given)} characters; use at least 16 random ones"
                raise EvaluationError(text, place=f"defense {self.name!r}")
            return hashlib.sha256(given.encode()).digest()
        if context.cache is None:
            return secrets.token_bytes(32)
        file = context.cache / KEY_FILE
        context.cache.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
                new.write(secrets.token_bytes(32))
        except FileExistsError:
            pass
        found = file.read_bytes()
        if len(found) != 32:
            raise EvaluationError("is damaged; delete it, and the run draws again", place=str(file))
        return found
