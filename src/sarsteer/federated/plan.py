"""The plan: everything that server and sites must agree on, in one file. Its digest identifies a calibration."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sarsteer.errors import MessageError, ModelError
from sarsteer.federated import fixed_point
from sarsteer.federated.errors import FederationError
from sarsteer.federated.identity import check_public
from sarsteer.federated.privacy import Privacy
from sarsteer.files import atomic_path
from sarsteer.models.activation_source import ActivationSource
from sarsteer.models.fingerprint import Fingerprint
from sarsteer.steering.gate.fit import TARGET_FPR, check_target
from sarsteer.steering.pooled.artifact import FARTHER, RANK, model_record
from sarsteer.steering.pooled.rounds import ROUNDS
from sarsteer.steering.pooled.setting import Setting

PLAN_VERSION = 2
"""2: wider histograms of scores."""
GROUPS = ("twin", "borderline"), ("everyday", "other")
"""The groups of sarsteer-pairs' pairs and of its other safe requests."""
MIN_MASKED = 3
"""Of two sites, each learns the other's sums by subtracting its own."""
RECORDS = 65536


@dataclass(frozen=True, eq=False)
class Plan:
    """What server and sites agree on.

    Attributes:
        model: name, revision and family, for the record.
        fingerprint: of the model; every site's must be equal, the dtype included.
        instruction, refusal_prompt: the paper's t and p.
        setting: groups, center, radius, sketch and shares.
        sites: the public key of each site, by name.
        min_sites: how many sites must answer each round; also the threshold of the secret shares.
        masked: whether sums are masked.
        cohorts: how many groups the sites are masked in; the server sees the sum of each. 1 hides most.
        robust: whether sites (cohorts, if masked) whose sums are far from the others' are left out.
        records: the largest number of records of a site.
        gate: whether a gate is fitted.
        privacy: noise; None for none.

    """

    model: Mapping[str, Any]
    fingerprint: Fingerprint = field(repr=False)
    instruction: str
    refusal_prompt: str
    setting: Setting
    sites: Mapping[str, str]
    min_sites: int
    masked: bool = True
    cohorts: int = 1
    robust: bool = False
    records: int = RECORDS
    gate: bool = True
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        for name, public in self.sites.items():
            if not name or not name.isprintable() or any(sign in name for sign in " /\\="):
                raise FederationError(f"a site's name must be printable, without spaces and slashes, not {name!r}")
            check_public(name, public)
        if len({*self.sites.values()}) != len(self.sites):
            raise FederationError("two sites have the same key; create a key for each")
        smallest = MIN_MASKED if self.masked else 1
        per_cohort = len(self.sites) // max(self.cohorts, 1)
        if self.cohorts < 1 or per_cohort < smallest:
            raise FederationError(
                f"{len(self.sites)} sites are too few for {self.cohorts} cohort(s) of masked sums: each needs at least "
                f"{MIN_MASKED} sites; add sites, or send sums without masks"
                if self.masked
                else f"{len(self.sites)} sites are too few for {self.cohorts} cohorts"
            )
        if not smallest <= self.min_sites <= len(self.sites):
            raise FederationError(
                f"the smallest number of sites must be from {smallest} to {len(self.sites)}, not {self.min_sites}"
            )
        if self.robust and max(self.cohorts, 1 if self.masked else len(self.sites)) < 3:
            raise FederationError(
                "robust aggregation compares at least 3 sums; send sums without masks, or use 3 or more cohorts"
            )
        if self.gate:
            check_target(self.setting.target_fpr)
        fixed_point.scale_of(len(self.sites), self.records)

    @property
    def rounds(self) -> int:
        """The largest number of rounds."""
        return len(ROUNDS) if self.gate else 2

    @property
    def scale(self) -> float:
        """Of fixed-point numbers."""
        return fixed_point.scale_of(len(self.sites), self.records)

    def threshold(self, members: Sequence[str]) -> int:
        """How many of a cohort's ``members`` recover secrets: more than two thirds, and the plan's share at least."""
        share = math.ceil(self.min_sites * len(members) / len(self.sites))
        return min(len(members), max(share, 2 * len(members) // 3 + 1, MIN_MASKED))

    def cohorts_of(self, active: Sequence[str]) -> list[list[str]]:
        """The active sites in their cohorts, which do not change when a site drops out."""
        if not self.masked:
            return [[name] for name in sorted(active)]
        ordered = sorted(self.sites, key=lambda name: hashlib.sha256(f"{self.sites[name]}".encode()).digest())
        groups = [ordered[index :: self.cohorts] for index in range(self.cohorts)]
        return [kept for group in groups if (kept := sorted(set(group) & set(active)))]

    def check_model(self, other: Fingerprint) -> None:
        """Raise ``FederationError`` unless ``other`` is the plan's model in the plan's precision."""
        difference = self.fingerprint.difference(other)
        if difference is not None:
            raise FederationError(f"this site has another model than the plan ({difference}); load the plan's model")
        if other.dtype != self.fingerprint.dtype:
            raise FederationError(
                f"this site runs the model in {other.dtype}, the plan in {self.fingerprint.dtype}; pass --dtype "
                f"{self.fingerprint.dtype}"
            )

    # ---- files ---------------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the plan, Ω included."""
        digest = hashlib.sha256(json.dumps(self._header, sort_keys=True).encode())
        for tensor in (self.setting.center, self.setting.radius, self.setting.omega):
            digest.update(tensor.double().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def _header(self) -> dict[str, Any]:
        setting = self.setting
        return {
            "version": PLAN_VERSION,
            "model": dict(self.model),
            "fingerprint": self.fingerprint.to_dict(),
            "instruction": self.instruction,
            "refusal_prompt": self.refusal_prompt,
            "setting": {
                "pair_groups": list(setting.pair_groups),
                "benign_groups": list(setting.benign_groups),
                "rank": setting.rank,
                "seed": setting.seed,
                "shares": list(setting.shares),
                "target_fpr": setting.target_fpr,
            },
            "sites": dict(sorted(self.sites.items())),
            "privacy": None if self.privacy is None else vars(self.privacy),
            **{name: getattr(self, name) for name in ("min_sites", "masked", "cohorts", "robust", "records", "gate")},
        }

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        from safetensors.torch import save_file

        tensors = {"center": self.setting.center.double(), "radius": self.setting.radius.double()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"plan": json.dumps(self._header, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a file that ``save`` wrote.

        Raises:
            FederationError: the file is missing, damaged, or of another version.

        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["plan"])
                center, radius = file.get_tensor("center"), file.get_tensor("radius")
            if header.pop("version") != PLAN_VERSION:
                raise FederationError("is a plan of another version of sarsteer; use the same version on all sites")
            setting, privacy = header.pop("setting"), header.pop("privacy")
            for name in ("pair_groups", "benign_groups", "shares"):
                setting[name] = tuple(setting[name])
            return cls(
                fingerprint=Fingerprint.from_json(json.dumps(header.pop("fingerprint"))),
                setting=Setting(center=center, radius=radius, **setting),
                privacy=None if privacy is None else Privacy(**privacy),
                **header,
            )
        except FederationError as error:
            raise error.at(str(path)) from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            raise FederationError("is not a plan; create one with sarsteer federate plan", place=str(path)) from None


def make_plan(
    model: ActivationSource,
    sites: Mapping[str, str],
    instruction: str,
    refusal_prompt: str,
    *,
    groups: tuple[Sequence[str], Sequence[str]] = GROUPS,
    rank: int = RANK,
    seed: int = 0,
    min_sites: int | None = None,
    radius: float = FARTHER,
    epsilon: float | None = None,
    delta: float = 1e-5,
    target_fpr: float = TARGET_FPR,
    gate: bool = True,
    **options: Any,
) -> Plan:
    """A plan for ``model``. The center is its reaction to a second of noise, which is nobody's recording.

    Args:
        model: the model, unsteered.
        sites: the public key of each site, by name.
        instruction: the paper's t.
        refusal_prompt: the paper's p.
        groups: of pairs, and of safe requests without a twin.
        rank: of the sketch.
        seed: of the sketch, and of what each clip is used for.
        target_fpr: the share of safe requests that may open the gate.
        min_sites: by default more than two thirds of the sites.
        radius: of activations around the center, as a multiple of the center's norm.
        epsilon: ε to spend; None for no noise.
        delta: δ.
        gate: whether a gate is fitted.
        options: ``masked``, ``cohorts``, ``robust`` and ``records`` of ``Plan``.

    Raises:
        FederationError: a value is invalid, or there are too few sites.

    """
    if not (math.isfinite(radius) and radius > 0):
        raise FederationError(f"the radius must be above 0, not {radius}")
    center = noise_activations(model, instruction)
    setting = Setting(
        tuple(groups[0]), tuple(groups[1]), center, radius * center.norm(dim=1).clamp(min=1e-6), rank, seed,
        target_fpr=target_fpr,
    )  # fmt: skip
    rounds = len(ROUNDS) if gate else 2
    return Plan(
        model=model_record(model),
        fingerprint=model.fingerprint,
        instruction=instruction,
        refusal_prompt=refusal_prompt,
        setting=setting,
        sites=dict(sites),
        min_sites=2 * len(sites) // 3 + 1 if min_sites is None else min_sites,
        gate=gate,
        privacy=None if epsilon is None else Privacy.for_epsilon(epsilon, delta, rounds),
        **options,
    )


def noise_activations(model: ActivationSource, instruction: str) -> torch.Tensor:
    """``[L, D]`` in float64: the model's activations for a second of white noise, or for a written word."""
    import tempfile

    import numpy as np
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.wav"
        soundfile.write(path, 0.05 * np.random.default_rng(0).standard_normal(16000), 16000)
        text = {"type": "text", "text": instruction}
        for content in (
            [{"type": "audio", "path": str(path)}, text],
            [{"type": "text", "text": f"Hello.\n{instruction}"}],
        ):
            try:
                prompts = model.prepare([[{"role": "user", "content": content}]], remember=False)
                return model.last_token_activations(prompts)[0].double()
            except MessageError:  # the model takes no audio
                continue
    raise ModelError("this model accepts neither audio nor text")
