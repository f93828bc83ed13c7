"""What the operator configured: read from the environment in the front end, sent to every worker in vLLM's own config.

Workers may run on other nodes, with another environment: what they do follows from ``additional_config`` alone.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import SteeringError

if TYPE_CHECKING:
    import torch

    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.gate.gate import Gate

KEY = "sarsteer"
"""In vLLM's ``additional_config``. It enters the compile cache's key: steered and plain graphs differ."""

DEFAULT_SET = "default"


@dataclass(frozen=True)
class VectorSet:
    """One steering file at one ablation; requests name it.

    Attributes:
        name: what requests call it.
        source: the file, or a repository on the Hub.
        alpha: strength of requests that name none.
        k, lambda_: of the ablation, for all requests.
        digest: SHA-256 of the vectors, and of the gate where there is one; every worker must come to the same.
        layers, width: L and D.
        gate_layer: where its gate decides; None where every request is steered.

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


@dataclass(frozen=True)
class Settings:
    """All that front end, engine core and workers must agree on.

    Attributes:
        sets: the vector sets; the first is every request's that names none.
        bounds: lowest and highest alpha that a request may ask for; None where it may not ask at all.
        ignore_refused: answer a request that asks for more than it may at the operator's strength, instead of
            refusing it.
        allow_other_model: start though the weights are not those that were calibrated.

    """

    sets: tuple[VectorSet, ...]
    bounds: tuple[float, float] | None = None
    ignore_refused: bool = False
    allow_other_model: bool = False

    def to_config(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        return {**values, "sets": list(values["sets"]), "bounds": list(self.bounds) if self.bounds else None}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Back from ``to_config``."""
        bounds = config["bounds"]
        return cls(
            tuple(VectorSet(**values) for values in config["sets"]),
            (float(bounds[0]), float(bounds[1])) if bounds else None,
            bool(config["ignore_refused"]),
            bool(config["allow_other_model"]),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all vectors in order: what a worker reports as attached."""
        return hashlib.sha256("".join(one.digest for one in self.sets).encode()).hexdigest()


def settings_of(vllm_config: Any) -> Settings | None:
    """The settings in a ``VllmConfig``; None where it is not steered."""
    found = getattr(vllm_config, "additional_config", None)
    config = found.get(KEY) if isinstance(found, dict) else None
    return Settings.from_config(config) if config and "sets" in config else None


def from_environment(environment: Mapping[str, str] | None = None) -> Settings | None:
    """The settings that ``SARSTEER_*`` variables make; None without ``SARSTEER_STEERING``.

    Raises:
        SteeringError: a variable has no valid value.
        ArtifactError: a steering file is missing, damaged, or of another format.

    """
    env = os.environ if environment is None else environment
    named = env.get("SARSTEER_STEERING", "").strip()
    if not named:
        return None
    alpha, lambda_ = _number(env, "SARSTEER_ALPHA"), _number(env, "SARSTEER_LAMBDA")
    k = _number(env, "SARSTEER_K")
    if k is not None and (k != int(k) or k < 0):
        raise SteeringError(f"SARSTEER_K={env['SARSTEER_K']}: must be a whole number from 0")
    wanted = env.get("SARSTEER_GATE", "").strip()
    gate = None if not wanted else _choice(env, "SARSTEER_GATE", ("off", "on")) == "on"
    sets = tuple(
        load_set(name, source, alpha, None if k is None else int(k), lambda_, gate) for name, source in _sources(named)
    )
    first = sets[0]
    for one in sets[1:]:
        if (one.layers, one.width) != (first.layers, first.width):
            raise SteeringError(
                f"SARSTEER_STEERING: {one.name} has {one.layers} layers of width {one.width}, {first.name} "
                f"{first.layers} of {first.width}; one server steers one model"
            )
    return Settings(
        sets,
        _bounds(env.get("SARSTEER_ALLOW_OVERRIDE", "").strip()),
        _choice(env, "SARSTEER_REFUSED_OVERRIDE", ("reject", "ignore")) == "ignore",
        _choice(env, "SARSTEER_ALLOW_OTHER_MODEL", ("0", "1")) == "1",
    )


def load_set(
    name: str, source: str, alpha: float | None, k: int | None, lambda_: float | None, gate: bool | None = None
) -> VectorSet:
    """Read a steering file and settle its strengths, and whether it is gated: the operator's word, else its own."""
    steering = read_steering(source)
    try:
        chosen = steering.choose_gate(gate)
    except SteeringError as error:
        raise SteeringError(f"{source}: {error}") from None
    own_alpha, own_k, own_lambda = steering.defaults
    k, lambda_ = (own_k if k is None else k), (own_lambda if lambda_ is None else lambda_)
    vectors = steering.vectors(k, lambda_)
    layers, width = vectors.shape
    alpha = own_alpha if alpha is None else alpha
    gate_layer = None if chosen is None else chosen.layer
    digest = set_digest(vectors, chosen)
    return VectorSet(name, source, alpha, k, lambda_, digest, int(layers), int(width), gate_layer)


def read_steering(source: str) -> Steering:
    """The artifact, from a file or the Hub."""
    from sarsteer.steering.artifact import Steering

    return Steering.load(source) if _is_file(source) else Steering.from_pretrained(source)


def set_digest(vectors: torch.Tensor, gate: Gate | None) -> str:
    """SHA-256 of ``[L, D]`` in float32, and of the gate that decides beside them."""
    digest = hashlib.sha256(vectors.float().contiguous().numpy().tobytes())
    if gate is not None:
        digest.update(gate.digest.encode())
    return digest.hexdigest()


def _sources(named: str) -> list[tuple[str, str]]:
    """``FILE`` or ``NAME=FILE,NAME2=FILE2``; files become absolute, because workers may start elsewhere."""
    parts = [part.strip() for part in named.split(",")]
    pairs = [part.split("=", 1) if "=" in part else [DEFAULT_SET, part] for part in parts]
    if any(not name.strip() or not source.strip() for name, source in pairs):
        raise SteeringError(f"SARSTEER_STEERING={named}: write FILE, or NAME=FILE,NAME2=FILE2")
    names = [name.strip() for name, _ in pairs]
    if len(set(names)) < len(names):
        raise SteeringError(f"SARSTEER_STEERING={named}: give each steering file a name of its own: NAME=FILE,...")
    return [(name.strip(), _absolute(source.strip())) for name, source in pairs]


def _absolute(source: str) -> str:
    return str(Path(source).expanduser().resolve()) if _is_file(source) else source


def _is_file(source: str) -> bool:
    """Whether a file is meant: a name on the Hub is "owner/name", and no path that exists or looks like one."""
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


def _choice(env: Mapping[str, str], name: str, choices: tuple[str, str]) -> str:
    value = env.get(name, "").strip() or choices[0]
    if value not in choices:
        raise SteeringError(f"{name}={value}: must be {' or '.join(choices)}")
    return value
