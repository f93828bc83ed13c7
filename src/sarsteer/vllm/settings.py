"""The operator's settings: read from the environment in the front end, sent to workers in vLLM's own configuration.

Workers may run on other nodes, with another environment: they act on ``additional_config`` only.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.steering.strength import GateChoice, Strength
from sarsteer.vllm.request_options import parse_allowed

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering

KEY = "sarsteer"
"""Key in vLLM's ``additional_config``, which is part of the compile cache's key: steered and plain graphs differ."""

DEFAULT_SET = "default"


@dataclass(frozen=True)
class VectorSet:
    """One steering file at one strength. Requests choose a set by its name.

    Attributes:
        name: what requests call it.
        source: path of the steering file, or its repository on the Hub.
        alpha: steering strength of requests that do not choose one.
        k, lambda_: ablation, the same for all requests.
        digest: SHA-256 of the vectors and the gate; every process must compute the same.
        layers, width: L and D.
        gate_layer: decoder layer at which the gate decides; None if every request is steered.
        shadow: the gate decides and nothing is steered: requests are not defended.

    """

    name: str
    source: str
    alpha: float
    k: int
    lambda_: float
    digest: str
    layers: int
    width: int
    gate_layer: int | None = None
    shadow: bool = False

    @property
    def strength(self) -> Strength:
        """The strength to resolve against the artifact in ``source``."""
        gate: GateChoice = "shadow" if self.shadow else self.gate_layer is not None
        return Strength(self.alpha, self.k, self.lambda_, gate=gate)


@dataclass(frozen=True)
class ServerSettings:
    """What front end, engine core and workers must agree on.

    Attributes:
        sets: the vector sets; requests that do not choose one use the first.
        bounds: lowest and highest alpha that a request may choose; None if it may not choose.
        ignore_refused: answer a request whose override is not allowed at the operator's strength, instead of
            refusing it.
        allow_other_model: start even if the weights are not the calibrated ones.
        allowed: options of requests, and routes, that are refused by default (``request_options``).
        decisions: file that the gates' decisions are appended to, on the node of the worker; None for none.

    """

    sets: tuple[VectorSet, ...]
    bounds: tuple[float, float] | None = None
    ignore_refused: bool = False
    allow_other_model: bool = False
    allowed: tuple[str, ...] = ()
    decisions: str | None = None

    def to_config(self) -> dict[str, Any]:
        """Convert to JSON values."""
        values = asdict(self)
        bounds = list(self.bounds) if self.bounds else None
        return {**values, "sets": list(values["sets"]), "bounds": bounds, "allowed": list(self.allowed)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ServerSettings:
        """Convert from ``to_config``'s values."""
        bounds = config["bounds"]
        return cls(
            tuple(VectorSet(**values) for values in config["sets"]),
            (float(bounds[0]), float(bounds[1])) if bounds else None,
            bool(config["ignore_refused"]),
            bool(config["allow_other_model"]),
            tuple(config["allowed"]),
            config["decisions"],
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all sets in order: what a worker reports as attached."""
        return digest_of_sets(vector_set.digest for vector_set in self.sets)

    @property
    def defends(self) -> bool:
        """Whether no set is in shadow mode, which steers nothing."""
        return not any(vector_set.shadow for vector_set in self.sets)

    def check_shape(self, model: str, layers: int, width: int) -> None:
        """Raise ``ArtifactError`` unless the model has as many decoder layers as the vectors, of the same width."""
        first = self.sets[0]
        if (layers, width) != (first.layers, first.width):
            raise ArtifactError(
                f"has {first.layers} layers of width {first.width}, {model} has {layers} of width {width}; "
                "calibrate this model",
                place=first.source,
            )


def digest_of_sets(digests: Iterable[str]) -> str:
    """SHA-256 of the sets' digests in order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def settings_of(vllm_config: Any) -> ServerSettings | None:
    """The settings in a ``VllmConfig``; None if it is not steered."""
    additional = getattr(vllm_config, "additional_config", None)
    config = additional.get(KEY) if isinstance(additional, dict) else None
    return ServerSettings.from_config(config) if config and "sets" in config else None


def from_environment(environment: Mapping[str, str] | None = None) -> ServerSettings | None:
    """The settings in the ``SARSTEER_*`` variables; None without ``SARSTEER_STEERING``.

    Raises:
        SteeringError: a variable has an invalid value.
        ArtifactError: a steering file is missing, damaged, or of another format.

    """
    env = os.environ if environment is None else environment
    files = env.get("SARSTEER_STEERING", "").strip()
    if not files:
        return None
    strength = Strength(
        alpha=_number(env, "SARSTEER_ALPHA"),
        k=_whole_number(env, "SARSTEER_K"),
        lambda_=_number(env, "SARSTEER_LAMBDA"),
        gate=_gate(env),
    )
    sets = tuple(load_set(name, source, strength) for name, source in _sources(files))
    first = sets[0]
    for other in sets[1:]:
        if (other.layers, other.width) != (first.layers, first.width):
            raise SteeringError(
                f"SARSTEER_STEERING: {other.name} has {other.layers} layers of width {other.width}, {first.name} has "
                f"{first.layers} of width {first.width}; one server steers one model"
            )
    return ServerSettings(
        sets,
        _bounds(env.get("SARSTEER_ALLOW_OVERRIDE", "").strip()),
        _choice(env, "SARSTEER_REFUSED_OVERRIDE", ("reject", "ignore")) == "ignore",
        _choice(env, "SARSTEER_ALLOW_OTHER_MODEL", ("0", "1")) == "1",
        parse_allowed(env.get("SARSTEER_ALLOW_REQUEST", "")),
        _decisions(env, sets),
    )


def load_set(name: str, source: str, strength: Strength) -> VectorSet:
    """Read a steering file and resolve the operator's strength against its defaults."""
    steering = read_steering(source)
    try:
        resolved = steering.resolve(strength)
    except SteeringError as error:
        raise error.at(source) from None
    layers, width = resolved.vectors.shape
    return VectorSet(
        name,
        source,
        resolved.alpha,
        resolved.k,
        resolved.lambda_,
        resolved.digest,
        int(layers),
        int(width),
        None if resolved.gate is None else resolved.gate.layer,
        resolved.shadow,
    )


def read_steering(source: str) -> Steering:
    """Load an artifact from a file or the Hub."""
    from sarsteer.steering.artifact import Steering

    return Steering.load(source) if _is_file(source) else Steering.from_pretrained(source)


def _sources(files: str) -> list[tuple[str, str]]:
    """Parse ``FILE`` or ``NAME=FILE,NAME2=FILE2``. Paths become absolute, because workers may start elsewhere."""
    parts = [part.strip() for part in files.split(",")]
    pairs = [part.split("=", 1) if "=" in part else [DEFAULT_SET, part] for part in parts]
    if any(not name.strip() or not source.strip() for name, source in pairs):
        raise SteeringError(f"SARSTEER_STEERING={files}: write FILE, or NAME=FILE,NAME2=FILE2")
    names = [name.strip() for name, _ in pairs]
    if len(set(names)) < len(names):
        raise SteeringError(f"SARSTEER_STEERING={files}: two files have the same name; write NAME=FILE,NAME2=FILE2")
    return [(name.strip(), _absolute(source.strip())) for name, source in pairs]


def _absolute(source: str) -> str:
    return str(Path(source).expanduser().resolve()) if _is_file(source) else source


def _is_file(source: str) -> bool:
    """Whether a file is meant. A name on the Hub is "owner/name", and neither exists as a path nor looks like one."""
    return Path(source).exists() or source.endswith(".safetensors") or source.startswith(("/", ".", "~"))


def _number(env: Mapping[str, str], name: str) -> float | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SteeringError(f"{name}={text}: must be a finite number")
    return value


def _whole_number(env: Mapping[str, str], name: str) -> int | None:
    value = _number(env, name)
    if value is not None and (value != int(value) or value < 0):
        raise SteeringError(f"{name}={env[name]}: must be a whole number from 0")
    return None if value is None else int(value)


def _bounds(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise SteeringError(f"SARSTEER_ALLOW_OVERRIDE={text}: write the lowest and highest alpha, such as 0.05:0.2")
    return low, high


def _decisions(env: Mapping[str, str], sets: Iterable[VectorSet]) -> str | None:
    text = env.get("SARSTEER_DECISIONS", "").strip()
    if not text:
        return None
    path = Path(text).expanduser().resolve()
    if all(vector_set.gate_layer is None for vector_set in sets):
        raise SteeringError(f"SARSTEER_DECISIONS={text}: no gate decides; set SARSTEER_GATE=on or shadow")
    if path.is_dir() or not path.parent.is_dir():
        raise SteeringError(f"SARSTEER_DECISIONS={text}: is not a file in an existing folder")
    return str(path)


def _gate(env: Mapping[str, str]) -> GateChoice:
    if not env.get("SARSTEER_GATE", "").strip():
        return None
    choice = _choice(env, "SARSTEER_GATE", ("off", "on", "shadow"))
    return "shadow" if choice == "shadow" else choice == "on"


def _choice(env: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    value = env.get(name, "").strip() or choices[0]
    if value not in choices:
        *others, last = choices
        raise SteeringError(f"{name}={value}: must be {', '.join(others)} or {last}")
    return value
