"""The steering artifact: everything that calibration learned, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.files import atomic_path
from sarsteer.models.fingerprint import Fingerprint, fingerprint_of
from sarsteer.models.layers import find_decoder_layers
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.hooks import SteeringHandle, attach
from sarsteer.steering.strength import GateChoice, ResolvedStrength, Strength
from sarsteer.steering.subspace import ablate, weighted

if TYPE_CHECKING:
    from sarsteer.models.audio_language_model import AudioLanguageModel
    from sarsteer.steering.diagnostics import LayerReport
    from sarsteer.steering.suggestion import Suggestion

FORMAT_VERSION, GATED_VERSION = 1, 2
"""A file with a gate, or with weights of its layers, has a version of its own: a reader that knows neither would steer
every request, in every layer, by strengths that were chosen for some, and must refuse it. A file without is what it
always was, readable by every version."""
FILE_NAME = "steering.safetensors"
DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA = 0.1, 10, 1.0
_TENSORS = ("refusal", "safe_basis", "singular_values", "safe_mean", "harmful_mean", "activation_norms")
_KEYS = ("format_version", "model", "fingerprint", "layers", "hidden_size", "instruction", "refusal_prompt", "pairs")


@dataclass(frozen=True, eq=False)
class Steering:
    """What calibration learned of one model. α, k and λ are chosen when it is used, not when it was made.

    Attributes:
        refusal: ``[L, D]`` raw refusal vectors ``r_l``, the mean over harmful clips of ``h_l(a, t+p) − h_l(a, t)``.
        safe_basis: ``[L, K, D]`` orthonormal rows: the safe subspace's principal components, largest first.
        singular_values: ``[L, K]`` of the centred safe activations.
        safe_mean, harmful_mean: ``[L, D]`` mean of ``h_l(a, t)`` over safe and harmful clips.
        activation_norms: ``[L]`` median of ``‖h_l(a, t)‖`` over harmful clips.
        metadata: where it comes from; JSON values only.
        gate: tells harmful from safe requests, where calibration could fit one.

    """

    refusal: torch.Tensor = field(repr=False)
    safe_basis: torch.Tensor = field(repr=False)
    singular_values: torch.Tensor = field(repr=False)
    safe_mean: torch.Tensor = field(repr=False)
    harmful_mean: torch.Tensor = field(repr=False)
    activation_norms: torch.Tensor = field(repr=False)
    metadata: dict[str, Any] = field(default_factory=dict)
    gate: Gate | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_shapes(self)
        if "format_version" in self.metadata:
            plain = self.gate is None and "layer_weights" not in self.metadata.get("defaults", {})
            version = FORMAT_VERSION if plain else GATED_VERSION
            object.__setattr__(self, "metadata", {**self.metadata, "format_version": version})

    # ---- the vectors ---------------------------------------------------------------------------------------------

    @property
    def defaults(self) -> tuple[float, int, float]:
        """α, k and λ where the caller gives none: the artifact's own, else the paper's, k within the rank."""
        own = self.metadata.get("defaults", {})
        return (
            float(own.get("alpha", DEFAULT_ALPHA)),
            min(int(own.get("k", DEFAULT_K)), self.max_k),
            float(own.get("lambda", DEFAULT_LAMBDA)),
        )

    @property
    def max_k(self) -> int:
        """The most components that can be ablated."""
        return int(self.safe_basis.shape[1])

    @property
    def default_layer_weights(self) -> tuple[float, ...]:
        """``w_l`` of each layer where the caller gives none: the artifact's own, else 1, as in the paper."""
        own = self.metadata.get("defaults", {}).get("layer_weights")
        return tuple(1.0 for _ in self.refusal) if own is None else tuple(map(float, own))

    def vectors(
        self, k: int | None = None, lambda_: float | None = None, layer_weights: Sequence[float] | None = None
    ) -> torch.Tensor:
        """``w_l (r_l − λ U_l U_lᵀ r_l)`` for every layer: ``[L, D]``, float32.

        Args:
            k: principal components of the safe subspace to ablate; 0 for none. The artifact's default if None.
            lambda_: ablation coefficient. The artifact's default if None.
            layer_weights: ``[L]``, times which each layer is steered; 0 leaves it alone. The artifact's default if
                None, which is 1 everywhere unless ``with_defaults`` set it; the paper steers all layers alike.

        Raises:
            SteeringError: k is negative or beyond the rank, λ is not finite, or there is no finite weight a layer.

        """
        _, default_k, default_lambda = self.defaults
        k = default_k if k is None else k
        lambda_ = default_lambda if lambda_ is None else lambda_
        if isinstance(k, bool) or int(k) != k or k < 0:
            raise SteeringError(f"k must be a whole number from 0 to {self.max_k}, not {k}")
        if k > self.max_k:
            raise SteeringError(
                f"k = {k} is beyond the rank of the safe activations; give at most {self.max_k}, "
                "or calibrate on more pairs"
            )
        if not math.isfinite(lambda_):
            raise SteeringError(f"lambda must be a finite number, not {lambda_}")
        vectors = ablate(self.refusal, self.safe_basis, int(k), float(lambda_))
        weights = self.default_layer_weights if layer_weights is None else tuple(layer_weights)
        return weighted(vectors, weights)

    def report(
        self, alpha: float | None = None, k: int | None = None, lambda_: float | None = None
    ) -> list[LayerReport]:
        """Norms, kept share and relative strength of every layer."""
        from sarsteer.steering.diagnostics import layer_reports

        return layer_reports(self, self.defaults[0] if alpha is None else alpha, k, lambda_)

    def suggest(self) -> Suggestion:
        """Strengths in closed form, from the vectors alone: where a search begins."""
        from sarsteer.steering.suggestion import suggest

        return suggest(self)

    @property
    def gate_by_default(self) -> bool:
        """Whether requests are gated where the caller does not say."""
        return bool(self.metadata.get("defaults", {}).get("gate", False))

    def choose_gate(self, wanted: bool | Gate | None = None) -> Gate | None:
        """The gate to steer with: none for False, the artifact's for True, its default for None, else what is given.

        Raises:
            SteeringError: the artifact has no gate; the message says why. Or the gate was calibrated on another model,
                or beside another instruction.

        """
        if isinstance(wanted, Gate):
            self._check_gate(wanted)
            return wanted
        if not (self.gate_by_default if wanted is None else wanted):
            return None
        if self.gate is None:
            why = self.metadata.get("no_gate", "it was calibrated without one")
            raise SteeringError(f"this steering has no gate: {why}; steer without, or calibrate anew")
        return self.gate

    def _check_gate(self, gate: Gate) -> None:
        """One that was made by hand, and does not say of what, is taken as it is."""
        own = {"fingerprint": self.fingerprint.digest, "instruction": self.metadata["instruction"]}
        for name, what in (("fingerprint", "on another model"), ("instruction", "beside another instruction")):
            if gate.metadata.get(name, own[name]) != own[name]:
                raise SteeringError(
                    f"this gate was calibrated {what} than this steering; use its own, or calibrate anew"
                )

    def with_gate(self, gate: Gate | None) -> Steering:
        """The same artifact with another gate, such as ``steering.gate.with_threshold(0.5)``; None takes it out.

        Raises:
            SteeringError: the gate was calibrated on another model, or beside another instruction.

        """
        if gate is not None:
            self._check_gate(gate)
        metadata = dict(self.metadata)
        if gate is None:
            metadata["no_gate"] = "it was taken out"
            metadata["defaults"] = {**metadata.get("defaults", {}), "gate": False}
        else:
            metadata.pop("no_gate", None)
        return replace(self, gate=gate, metadata=metadata)

    def with_defaults(
        self,
        *,
        alpha: float | None = None,
        k: int | None = None,
        lambda_: float | None = None,
        layer_weights: Sequence[float] | None = None,
        gate: bool | None = None,
    ) -> Steering:
        """The same artifact with other default strengths and weights of its layers ``[L]``, gated by default or not."""
        own_alpha, own_k, own_lambda = self.defaults
        chosen: dict[str, Any] = {
            "alpha": own_alpha if alpha is None else float(alpha),
            "k": own_k if k is None else int(k),
            "lambda": own_lambda if lambda_ is None else float(lambda_),
        }
        weights = self.default_layer_weights if layer_weights is None else tuple(map(float, layer_weights))
        self.vectors(chosen["k"], chosen["lambda"], weights)  # raises where they are out of range
        if any(weight != 1 for weight in weights):  # else the file says nothing of them, as before there were any
            chosen["layer_weights"] = list(weights)
        gated = self.gate_by_default if gate is None else bool(gate)
        if gated:
            self.choose_gate(True)  # raises where there is none
        if gated or "gate" in self.metadata.get("defaults", {}):
            chosen["gate"] = gated
        return replace(self, metadata={**self.metadata, "defaults": chosen})

    def resolve(self, strength: Strength | None = None) -> ResolvedStrength:
        """The vectors, alpha, gate and digest that ``strength`` stands for with this artifact.

        Raises:
            SteeringError: a value is out of range, or a gate is requested and there is none.

        """
        strength = Strength() if strength is None else strength
        alpha, k, lambda_ = self.defaults
        alpha = alpha if strength.alpha is None else strength.alpha
        k = k if strength.k is None else strength.k
        lambda_ = lambda_ if strength.lambda_ is None else strength.lambda_
        weights = self.default_layer_weights if strength.layer_weights is None else tuple(strength.layer_weights)
        if isinstance(strength.gate, str):
            gate = self.choose_gate(True)
            assert gate is not None
            gate = gate.with_mode(strength.gate)
        else:
            gate = self.choose_gate(strength.gate)
        return ResolvedStrength(
            vectors=self.vectors(k, lambda_, weights),
            alpha=float(alpha),
            k=int(k),
            lambda_=float(lambda_),
            layer_weights=tuple(map(float, weights)),
            gate=gate,
        )

    # ---- steering a model ----------------------------------------------------------------------------------------

    def attach(
        self,
        model: AudioLanguageModel | nn.Module,
        alpha: float | None = None,
        k: int | None = None,
        lambda_: float | None = None,
        *,
        layer_weights: Sequence[float] | None = None,
        gate: GateChoice = None,
        allow_other_model: bool = False,
        layers: str | None = None,
    ) -> SteeringHandle:
        """Steer every following forward and ``generate`` of ``model`` until ``handle.remove()``.

        Args:
            model: an ``AudioLanguageModel`` or a bare transformers model.
            alpha: steering strength; change it later through ``handle.alpha``.
            k: as in ``vectors``.
            lambda_: as in ``vectors``.
            layer_weights: as in ``vectors``.
            gate: steer only requests that the gate takes for harmful; True for the artifact's own gate, False for
                none, which is the paper, None for the artifact's default. ``handle.decisions`` tells what it decided.
            allow_other_model: go on though the weights are not those that were calibrated, as with a quantised
                copy of the same model. Shapes must agree all the same.
            layers: dotted path to a bare model's decoder layers, where they are not found.

        Raises:
            ArtifactError: the model is not the one that was calibrated.
            SteeringError: the hooks would not steer every forward exactly, or a gate is asked for and not there;
                the model is left as it was.
            ModelError: the model shows no activations, as one behind an API.

        """
        if isinstance(model, nn.Module):
            module, found, probe = model, find_decoder_layers(model, layers), None
        else:
            model.check_steerable()
            module, found, probe = model.module, model.decoder_layers, model.probe
        self.check_model(fingerprint_of(module, found), allow_other_model=allow_other_model)
        weights = None if layer_weights is None else tuple(layer_weights)
        chosen = self.resolve(Strength(alpha, k, lambda_, weights, gate))
        return attach(module, found, chosen.vectors, chosen.alpha, probe, chosen.gate)

    @contextmanager
    def on(
        self,
        model: AudioLanguageModel | nn.Module,
        alpha: float | None = None,
        k: int | None = None,
        lambda_: float | None = None,
        *,
        layer_weights: Sequence[float] | None = None,
        gate: GateChoice = None,
        allow_other_model: bool = False,
        layers: str | None = None,
    ) -> Iterator[SteeringHandle]:
        """``attach`` for the length of a ``with`` block."""
        handle = self.attach(
            model,
            alpha,
            k,
            lambda_,
            layer_weights=layer_weights,
            gate=gate,
            allow_other_model=allow_other_model,
            layers=layers,
        )
        try:
            yield handle
        finally:
            handle.remove()

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the model that was calibrated."""
        return Fingerprint.from_json(json.dumps(self.metadata["fingerprint"]))

    def check_model(self, other: Fingerprint, *, allow_other_model: bool = False) -> None:
        """Raise ``ArtifactError`` unless ``other`` is the calibrated model."""
        layers, width = self.refusal.shape
        if (other.layers, other.hidden_size) != (layers, width):
            raise ArtifactError(
                f"this steering has {layers} layers of width {width}, the model {other.layers} of {other.hidden_size}; "
                "calibrate this model"
            )
        difference = self.fingerprint.difference(other)
        if difference is not None and not allow_other_model:
            name = self.metadata.get("model", {}).get("name")
            raise ArtifactError(
                f"this steering was calibrated on another model than this one ({name}: {difference}); calibrate this "
                "model, or allow it explicitly where it is a quantised copy"
            )

    # ---- files ---------------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors and their meaning: what a report or a worker quotes."""
        digest = hashlib.sha256()
        for name in _TENSORS:
            digest.update(name.encode())
            digest.update(getattr(self, name).float().contiguous().numpy().tobytes())
        digest.update(json.dumps(self.metadata, sort_keys=True).encode())
        if self.gate is not None:
            digest.update(self.gate.digest.encode())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        target = Path(path)
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        header = self.metadata
        if self.gate is not None:
            tensors |= self.gate.tensors
            header = {**header, "gate": self.gate.header}
        with atomic_path(target) as temporary:
            save_file(tensors, temporary, metadata={"sarsteer": json.dumps(header, sort_keys=True)})
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Steering:
        """Read a file that ``save`` wrote.

        Raises:
            ArtifactError: the file is missing, damaged, of another format, or inconsistent.

        """
        from safetensors import SafetensorError, safe_open

        target = Path(path)
        if target.is_dir():
            target = target / FILE_NAME
        if not target.is_file():
            raise ArtifactError(f"{target}: no such steering file; make one with sarsteer calibrate")
        try:
            with safe_open(target, framework="pt") as file:
                header = (file.metadata() or {}).get("sarsteer")
                names = set(file.keys())
                tensors = {name: file.get_tensor(name) for name in _TENSORS if name in names}
                gate_parts = {name: file.get_tensor(name) for name in names if name.startswith("gate.")}
        except (SafetensorError, OSError) as error:
            raise ArtifactError(
                f"{target}: is no safetensors file, or was truncated ({error}); copy it again or calibrate anew"
            ) from None
        if header is None:
            raise ArtifactError(f"{target}: is a safetensors file, but no steering; make one with sarsteer calibrate")
        metadata = _read_header(header, target)
        if missing := [name for name in _TENSORS if name not in tensors]:
            raise ArtifactError(f"{target}: lacks {', '.join(missing)}; calibrate anew")
        try:
            gate = Gate.from_parts(metadata.pop("gate", None), gate_parts) if _is_gated(metadata) else None
            return cls(**tensors, metadata=metadata, gate=gate)
        except (ArtifactError, SteeringError) as error:
            raise ArtifactError(f"{target}: {error}") from None

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, token: str | None = None, message: str | None = None
    ) -> str:
        """Upload the artifact to a model repository on the Hugging Face Hub; returns the commit's URL."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            path = self.save(Path(folder) / FILE_NAME)
            info = api.upload_file(
                path_or_fileobj=path,
                path_in_repo=FILE_NAME,
                repo_id=repo_id,
                commit_message=message or f"Steering of {self.metadata['model']['name']}",
            )
        return str(info.commit_url)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> Steering:
        """Load from a file, a folder, or a model repository on the Hub."""
        if Path(name_or_path).exists():
            return cls.load(name_or_path)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return cls.load(hf_hub_download(str(name_or_path), FILE_NAME, revision=revision, token=token))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ArtifactError(
                f"{name_or_path}: neither a file nor a reachable Hub repository with {FILE_NAME} ({first})"
            ) from None


def _read_header(header: str, target: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(header)
    except json.JSONDecodeError:
        raise ArtifactError(f"{target}: its metadata is damaged; calibrate anew") from None
    if not isinstance(metadata, dict):
        raise ArtifactError(f"{target}: its metadata is damaged; calibrate anew")
    version = metadata.get("format_version")
    if version not in (FORMAT_VERSION, GATED_VERSION):
        raise ArtifactError(
            f"{target}: has format version {version}, this sarsteer reads {FORMAT_VERSION} and {GATED_VERSION}; "
            "use the sarsteer that wrote it, or calibrate anew"
        )
    if missing := [key for key in _KEYS if key not in metadata]:
        raise ArtifactError(f"{target}: its metadata lacks {', '.join(missing)}; calibrate anew")
    return metadata


def _is_gated(metadata: dict[str, Any]) -> bool:
    weighted_alone = "gate" not in metadata and "layer_weights" in metadata.get("defaults", {})
    return bool(metadata["format_version"] == GATED_VERSION) and not weighted_alone


def _check_shapes(steering: Steering) -> None:
    """Raise ``ArtifactError`` unless the tensors fit each other and hold numbers."""
    if steering.refusal.ndim != 2 or steering.safe_basis.ndim != 3:
        raise ArtifactError("its vectors have the wrong number of dimensions; calibrate anew")
    layers, width = steering.refusal.shape
    k = steering.safe_basis.shape[1]
    expected = {
        "refusal": (layers, width),
        "safe_basis": (layers, k, width),
        "singular_values": (layers, k),
        "safe_mean": (layers, width),
        "harmful_mean": (layers, width),
        "activation_norms": (layers,),
    }
    for name, shape in expected.items():
        tensor = getattr(steering, name)
        if tuple(tensor.shape) != shape:
            raise ArtifactError(f"{name} has shape {tuple(tensor.shape)} instead of {shape}; calibrate anew")
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{name} holds NaN or infinite values; calibrate anew")
    gate = steering.gate
    if gate is not None and (gate.layer >= layers - 1 or len(gate.weight) != width):
        raise ArtifactError(
            f"its gate, at layer {gate.layer} and {len(gate.weight)} wide, does not fit {layers} layers of {width}: "
            "calibrate anew"
        )
    for key, value in (("layers", layers), ("hidden_size", width)):
        if key in steering.metadata and steering.metadata[key] != value:
            raise ArtifactError(
                f"its metadata says {key} = {steering.metadata[key]}, its tensors {value}; calibrate anew"
            )
