"""Settings of the search, from a TOML file. ``default.toml`` documents every key."""

from __future__ import annotations

import dataclasses
import importlib
import math
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sarsteer.errors import TuningError

DEFAULT_FILE = Path(__file__).with_name("default.toml")
Layers = Literal["all", "range", "weights"]
Range = tuple[float, float]


@dataclass(frozen=True)
class SplitConfig:
    """Section ``[split]``."""

    tune_share: float = 0.5

    def __post_init__(self) -> None:
        _require(0 < self.tune_share < 1, "split.tune_share", "a number between 0 and 1", self.tune_share)


@dataclass(frozen=True)
class SpaceConfig:
    """Section ``[space]``: what is searched."""

    layers: Layers = "range"
    gate: bool = True
    push: Range = (0.01, 0.4)
    lambda_: Range = (0.25, 1.5)
    gate_fpr: Range = (0.01, 0.5)
    gate_layers: int = 8
    weight_knots: int = 8

    def __post_init__(self) -> None:
        choices = typing.get_args(Layers)
        _require(self.layers in choices, "space.layers", f"one of {', '.join(choices)}", self.layers)
        _require(0 < self.push[0] <= self.push[1], "space.push", "two numbers above 0, the lower first", self.push)
        _require(self.lambda_[0] <= self.lambda_[1], "space.lambda", "two numbers, the lower first", self.lambda_)
        ordered = 0 < self.gate_fpr[0] <= self.gate_fpr[1] < 1
        _require(ordered, "space.gate_fpr", "two numbers between 0 and 1, the lower first", self.gate_fpr)
        _require(self.gate_layers >= 1, "space.gate_layers", "a whole number from 1", self.gate_layers)
        _require(self.weight_knots >= 2, "space.weight_knots", "a whole number from 2", self.weight_knots)


@dataclass(frozen=True)
class SurrogateConfig:
    """Section ``[surrogate]``: estimates from first tokens."""

    enabled: bool = True
    steepness: float = 4.0
    text_tokens: int = 16
    min_agreement: float = 0.9

    def __post_init__(self) -> None:
        _require(self.steepness > 0, "surrogate.steepness", "a number above 0", self.steepness)
        _require(self.text_tokens >= 1, "surrogate.text_tokens", "a whole number from 1", self.text_tokens)
        between = 0 <= self.min_agreement <= 1
        _require(between, "surrogate.min_agreement", "a number from 0 to 1", self.min_agreement)


@dataclass(frozen=True)
class SamplerConfig:
    """Section ``[sampler]``."""

    startup_trials: int = 20

    def __post_init__(self) -> None:
        _require(self.startup_trials >= 1, "sampler.startup_trials", "a whole number from 1", self.startup_trials)


@dataclass(frozen=True)
class SearchConfig:
    """All sections; ``default.toml`` has the same defaults and explains each key.

    Raises:
        TuningError: from the constructors of the sections: a value is out of range; the message names its key.

    """

    split: SplitConfig = field(default_factory=SplitConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def to_json(self) -> dict[str, Any]:
        """``section.key: value``, for the study and the steering file."""
        values: dict[str, Any] = {}
        for section in dataclasses.fields(self):
            for key in dataclasses.fields(getattr(self, section.name)):
                value = getattr(getattr(self, section.name), key.name)
                name = f"{section.name}.{key.name.rstrip('_')}"
                values[name] = list(value) if isinstance(value, tuple) else value
        return values


def load_config(path: Path | None) -> SearchConfig:
    """The settings in a TOML file; defaults for None and for keys that are left out.

    Raises:
        TuningError: the file cannot be read, a key is unknown, or a value is invalid; the message names file and key.

    """
    if path is None:
        return SearchConfig()
    tables = _read(path)
    try:
        config: SearchConfig = _parsed(SearchConfig, tables, "")
        return config
    except TuningError as error:
        raise error.at(str(path)) from None


def _read(path: Path) -> dict[str, Any]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        tables: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
        return tables
    except OSError as error:
        raise TuningError(f"cannot be read ({error.strerror}); check the path", place=str(path)) from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise TuningError(f"is not a valid TOML file ({error}); fix it", place=str(path)) from None


def _parsed(cls: type[Any], table: dict[str, Any], prefix: str) -> Any:
    types_of = typing.get_type_hints(cls)
    names = {field.name.rstrip("_"): field.name for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            raise TuningError(f"unknown key {prefix}{key}; use one of {', '.join(f'{prefix}{name}' for name in names)}")
        wanted = types_of[names[key]]
        if dataclasses.is_dataclass(wanted):
            _require(isinstance(value, dict), key, f"a section, [{key}]", value)
            values[key] = _parsed(typing.cast(Any, wanted), value, f"{prefix}{key}.")
        else:
            values[names[key]] = _converted(wanted, value, f"{prefix}{key}")
    return cls(**values)


def _converted(wanted: Any, value: Any, key: str) -> Any:
    """``value`` as the field's type; the range is checked by its section."""
    if typing.get_origin(wanted) is Literal:
        _require(isinstance(value, str), key, "a text", value)
        return value
    if typing.get_origin(wanted) is tuple:
        _require(isinstance(value, list) and len(value) == 2, key, "a list of two numbers", value)
        return tuple(_converted(float, item, key) for item in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is bool:
        _require(isinstance(value, bool), key, "true or false", value)
        return value
    if wanted is int:
        _require(number and isinstance(value, int), key, "a whole number", value)
        return value
    _require(number and math.isfinite(value), key, "a number", value)
    return float(value)


def _require(valid: bool, key: str, description: str, value: Any) -> None:
    if not valid:
        shown = list(value) if isinstance(value, tuple) else value
        raise TuningError(f"{key} must be {description}, not {shown!r}")
