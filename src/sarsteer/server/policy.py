"""The policy: all tenants of a server, from one YAML file that is valid as a whole or not used at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sarsteer.errors import ArtifactError, SarsteerError, SteeringError
from sarsteer.server.auth import check_key, key_from_environment, matches, read_key_file
from sarsteer.server.errors import ApiError
from sarsteer.server.tenant import Tenant
from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.strength import Strength

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
LARGEST = 1 << 20
"""Largest policy file in bytes."""


class GateSettings(BaseModel):
    """The gate of a tenant, where it differs from the steering file's."""

    model_config = _STRICT
    threshold: float | None = None
    target_fpr: float | None = Field(None, gt=0, lt=1)
    mode: Literal["hard", "logistic"] | None = None


class KeySource(BaseModel):
    """Where a key comes from: exactly one of the three."""

    model_config = _STRICT
    key: str | None = None
    key_env: str | None = None
    key_file: str | None = None


class TenantSettings(KeySource):
    """One tenant in the file."""

    model_config = _STRICT
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    steering: str
    alpha: float | None = None
    k: int | None = Field(None, ge=0)
    lambda_: float | None = Field(None, alias="lambda")
    gate: bool | GateSettings | None = None
    refusal_text: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    mode: Literal["enforce", "shadow"] = "enforce"
    expose: Literal["none", "decision", "score"] = "decision"
    max_tokens: int | None = Field(None, ge=1)


class PolicyFile(BaseModel):
    """The file."""

    model_config = _STRICT
    version: Literal[1]
    tenants: list[TenantSettings] = Field(min_length=1)
    monitor: KeySource | None = None


@dataclass(frozen=True, eq=False)
class Policy:
    """All tenants, in force together.

    Attributes:
        tenants: at least one.
        monitor: digest of the key that may read ``/metrics``; None if no key is needed.
        digest: SHA-256 of the file; empty without one.

    """

    tenants: tuple[Tenant, ...]
    monitor: bytes | None = None
    digest: str = ""

    @property
    def keys(self) -> bool:
        """Whether requests need a key."""
        return all(tenant.key_digest is not None for tenant in self.tenants)

    def tenant_for(self, key: str | None) -> Tenant:
        """The tenant of a request. Every key is compared, so that the time does not tell which one was close.

        Raises:
            ApiError: the key is missing or belongs to nobody.

        """
        if not self.keys:
            return self.tenants[0]
        found = [tenant for tenant in self.tenants if tenant.key_digest and matches(key, tenant.key_digest)]
        if not found:
            message = "incorrect API key" if key else "no API key; send it as 'Authorization: Bearer KEY'"
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return found[0]

    def check_monitor(self, key: str | None) -> None:
        """Raise ``ApiError`` unless ``key`` may read all tenants' metrics."""
        if not self.keys:
            return
        if self.monitor is None:
            raise ApiError(403, "metrics of several tenants need 'monitor' in the policy", code="no_monitor_key")
        if not matches(key, self.monitor):
            raise ApiError(401, "incorrect API key for metrics", code="invalid_api_key")


def single_tenant(source: str, strength: Strength, keys: Sequence[str], **settings: Any) -> Policy:
    """The policy of a server without a file: one steering file, any number of equal keys.

    Raises:
        SarsteerError: a key is too short, or the steering file cannot be used.

    """
    artifact = load_artifact(source)
    digests = [check_key(key, "API key") for key in keys]
    tenant = make_tenant("default", artifact, source, strength, **settings)
    if not digests:
        return Policy((tenant,))
    return Policy(tuple(replace(tenant, key_digest=digest) for digest in digests), digests[0])


def read_policy(path: Path, environment: Mapping[str, str] | None = None) -> Policy:
    """Read and check a policy file with all its steering files and keys. Paths in it are relative to its folder.

    Raises:
        SarsteerError: anything in it is invalid; the message names the field.

    """
    text = _read(path)
    file = _parse(text, str(path))
    folder = path.resolve().parent
    artifacts: dict[str, Steering] = {}
    tenants: list[Tenant] = []
    for number, settings in enumerate(file.tenants):
        place = f"{path}: tenants.{number} ({settings.name})"
        key = check_key(_key(settings, folder, environment, place), place)
        source = _source(settings.steering, folder)
        try:
            if source not in artifacts:
                artifacts[source] = load_artifact(source)
            tenants.append(_tenant(settings, artifacts[source], source, key))
        except SarsteerError as error:
            raise error.at(place) from None
    _check_distinct(tenants, str(path))
    monitor = None
    if file.monitor is not None:
        place = f"{path}: monitor"
        monitor = check_key(_key(file.monitor, folder, environment, place), place)
        if any(tenant.key_digest == monitor for tenant in tenants):
            raise SarsteerError("has the key of a tenant; use another one", place=place)
    return Policy(tuple(tenants), monitor, hashlib.sha256(text.encode()).hexdigest())


def load_artifact(source: str) -> Steering:
    """A steering file, folder, or repository on the Hub."""
    path = Path(source)
    if path.exists() or source.endswith(".safetensors") or source.startswith(("/", ".", "~")):
        return Steering.load(path.expanduser())
    return Steering.from_pretrained(source)


def make_tenant(
    name: str,
    artifact: Steering,
    source: str,
    strength: Strength,
    *,
    shadow: bool = False,
    refusal_text: str | None = None,
    **settings: Any,
) -> Tenant:
    """A tenant whose defense works.

    Raises:
        SteeringError: the strength is invalid or does not defend, or a setting needs a gate.

    """
    resolved = artifact.resolve(strength)
    if resolved.weakness is not None:
        raise SteeringError(f"this steering does not defend: {resolved.weakness}")
    if resolved.gate is None and shadow:
        raise SteeringError("shadow mode records what a gate decides; set gate: true, or enforce")
    if resolved.gate is None and refusal_text is not None:
        raise SteeringError("refusal_text answers requests for which a gate opens; set gate: true, or leave it out")
    if "instruction" not in artifact.metadata:
        raise ArtifactError("its metadata has no instruction; run calibrate again")
    return Tenant(
        name,
        resolved,
        artifact,
        Path(source).name,
        shadow=shadow,
        refusal_text=refusal_text,
        **settings,
    )


def _tenant(settings: TenantSettings, artifact: Steering, source: str, key: bytes) -> Tenant:
    gate: Gate | bool | None = None
    if isinstance(settings.gate, GateSettings):
        gate = _gate(artifact, settings.gate)
    elif settings.gate is not None:
        gate = settings.gate
    return make_tenant(
        settings.name,
        artifact,
        source,
        Strength(settings.alpha, settings.k, settings.lambda_, gate=gate),
        shadow=settings.mode == "shadow",
        refusal_text=settings.refusal_text,
        key_digest=key,
        expose=settings.expose,
        max_tokens=settings.max_tokens,
    )


def _gate(artifact: Steering, settings: GateSettings) -> Gate:
    gate = artifact.choose_gate(True)
    assert gate is not None
    if settings.threshold is not None and settings.target_fpr is not None:
        raise SteeringError("gate: threshold and target_fpr both choose the threshold; give one")
    if settings.threshold is not None:
        gate = gate.with_threshold(settings.threshold)
    if settings.target_fpr is not None:
        gate = gate.with_target_fpr(settings.target_fpr)
    return gate if settings.mode is None else gate.with_mode(settings.mode)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's safe loader, which also refuses a key that occurs twice: the first one would be ignored silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise SarsteerError(f"is larger than {LARGEST} bytes; a policy is a short file", place=str(path))
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SarsteerError(f"the policy cannot be read ({reason})", place=str(path)) from None


def _parse(text: str, place: str) -> PolicyFile:
    try:
        return PolicyFile.model_validate(yaml.load(text, _Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise SarsteerError(f"is not valid YAML: {getattr(error, 'problem', error)}{line}", place=place) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part not in ("bool", "GateSettings")) or "the file"
        raise SarsteerError(f"{field}: {first['msg']}", place=place) from None


def _key(source: KeySource, folder: Path, environment: Mapping[str, str] | None, place: str) -> str:
    given = [name for name in ("key", "key_env", "key_file") if getattr(source, name) is not None]
    if len(given) != 1:
        raise SarsteerError("needs exactly one of key, key_env and key_file", place=place)
    if source.key_env is not None:
        key = key_from_environment(source.key_env, environment)
        if key is None:
            raise SarsteerError(f"the environment variable {source.key_env} is not set", place=place)
        return key
    if source.key_file is not None:
        try:
            keys = read_key_file(folder / os.path.expanduser(source.key_file))
        except SarsteerError as error:
            raise error.at(place) from None
        if len(keys) > 1:
            raise SarsteerError(f"{source.key_file} has {len(keys)} keys; a tenant has one", place=place)
        return keys[0]
    assert source.key is not None
    return source.key


def _source(text: str, folder: Path) -> str:
    """A path relative to the policy's folder, unless a repository on the Hub is meant."""
    path = folder / os.path.expanduser(text)
    return str(path) if path.exists() or text.endswith(".safetensors") or text.startswith(("/", ".", "~")) else text


def _check_distinct(tenants: Sequence[Tenant], place: str) -> None:
    for number, tenant in enumerate(tenants):
        for earlier in tenants[:number]:
            same = "name" if tenant.name == earlier.name else "key" if tenant.key_digest == earlier.key_digest else None
            if same is not None:
                raise SarsteerError(
                    f"tenants.{number}: has the {same} of {earlier.name}; each tenant needs its own", place=place
                )
    shapes = {tuple(tenant.strength.vectors.shape) for tenant in tenants}
    if len(shapes) > 1:
        raise SarsteerError(f"its steering files belong to models of different shapes: {sorted(shapes)}", place=place)
