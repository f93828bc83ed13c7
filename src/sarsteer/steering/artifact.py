"""The steering artifact: everything that calibration learned, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sarsteer.errors import ArtifactError, SteeringError, SteeringWarning
from sarsteer.models.fingerprint import Fingerprint, fingerprint_of
from sarsteer.models.layers import find_decoder_layers, hidden_size
from sarsteer.steering.file_format import FILE_NAME, TENSORS, file_in, read_file, version_of, write_file
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.strength import GateChoice, ResolvedStrength, Strength
from sarsteer.steering.subspace import ablate, weighted

if TYPE_CHECKING:
    from sarsteer.models.audio_language_model import AudioLanguageModel
    from sarsteer.steering.diagnostics import LayerReport
    from sarsteer.steering.suggestion import Suggestion

DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA = 0.1, 10, 1.0


@dataclass(frozen=True, eq=False)
class Steering:
    """What calibration learned about one model. α, k and λ are chosen at use.

    Attributes:
        refusal: ``[L, D]`` raw refusal vectors ``r_l``, the mean over harmful clips of ``h_l(a, t+p) − h_l(a, t)``.
        safe_basis: ``[L, K, D]`` orthonormal rows: principal components of the safe subspace, largest first.
        singular_values: ``[L, K]`` of the centered safe activations.
        safe_mean, harmful_mean: ``[L, D]`` mean of ``h_l(a, t)`` over safe and harmful clips.
        activation_norms: ``[L]`` median of ``‖h_l(a, t)‖`` over harmful clips.
        metadata: model, pairs, prompts and defaults; JSON values only.
        gate: separates harmful from safe requests, if calibration could fit one.

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
            version = version_of(self.metadata, self.gate)
            object.__setattr__(self, "metadata", {**self.metadata, "format_version": version})

    # ---- strength ------------------------------------------------------------------------------------------------

    @property
    def defaults(self) -> tuple[float, int, float]:
        """Default α, k and λ: the artifact's, otherwise the paper's, with k within the rank."""
        stored = self.metadata.get("defaults", {})
        return (
            float(stored.get("alpha", DEFAULT_ALPHA)),
            min(int(stored.get("k", DEFAULT_K)), self.max_k),
            float(stored.get("lambda", DEFAULT_LAMBDA)),
        )

    @property
    def max_k(self) -> int:
        """The largest number of components that can be ablated."""
        return int(self.safe_basis.shape[1])

    @property
    def default_layer_weights(self) -> tuple[float, ...]:
        """Default ``w_l`` of each layer: the artifact's, otherwise 1, as in the paper."""
        stored = self.metadata.get("defaults", {}).get("layer_weights")
        return tuple(1.0 for _ in self.refusal) if stored is None else tuple(map(float, stored))

    @property
    def gate_by_default(self) -> bool:
        """Whether requests are gated when the caller does not choose."""
        return bool(self.metadata.get("defaults", {}).get("gate", False))

    def resolve(self, strength: Strength | None = None) -> ResolvedStrength:
        """The vectors, alpha and gate in use: ``strength`` with this artifact's defaults.

        Raises:
            SteeringError: k is negative or above the rank, a value is not finite, the layer weights are not one finite
                number per layer, or a gate is requested that does not exist or does not belong to this artifact.

        """
        strength = Strength() if strength is None else strength
        alpha, k, lambda_ = self.defaults
        alpha = alpha if strength.alpha is None else strength.alpha
        k = k if strength.k is None else strength.k
        lambda_ = lambda_ if strength.lambda_ is None else strength.lambda_
        weights = self.default_layer_weights if strength.layer_weights is None else strength.layer_weights
        if isinstance(k, bool) or int(k) != k or k < 0:
            raise SteeringError(f"k must be a whole number from 0 to {self.max_k}, not {k}")
        if k > self.max_k:
            raise SteeringError(
                f"k = {k} is above the rank of the safe activations; use at most {self.max_k}, or calibrate on more "
                "pairs"
            )
        if not math.isfinite(lambda_):
            raise SteeringError(f"lambda must be a finite number, not {lambda_}")
        return ResolvedStrength(
            vectors=weighted(ablate(self.refusal, self.safe_basis, int(k), float(lambda_)), weights),
            alpha=alpha,
            gate=self.choose_gate(strength.gate),
            k=int(k),
            lambda_=float(lambda_),
            layer_weights=tuple(map(float, weights)),
        )

    def vectors(
        self, k: int | None = None, lambda_: float | None = None, layer_weights: Sequence[float] | None = None
    ) -> torch.Tensor:
        """``w_l (r_l − λ U_l U_lᵀ r_l)`` for every layer: ``[L, D]``, float32.

        Args:
            k: number of ablated principal components of the safe subspace; 0 for none. The artifact's default if None.
            lambda_: ablation coefficient. The artifact's default if None.
            layer_weights: ``[L]``, the factor of each layer; 0 leaves a layer unsteered. The artifact's default if
                None, which is 1 everywhere unless ``with_defaults`` changed it; the paper steers all layers alike.

        Raises:
            SteeringError: as in ``resolve``.

        """
        weights = None if layer_weights is None else tuple(layer_weights)
        return self.resolve(Strength(k=k, lambda_=lambda_, layer_weights=weights, gate=False)).vectors

    def choose_gate(self, choice: GateChoice = None) -> Gate | None:
        """The gate that ``choice`` selects; None if every request is steered.

        Raises:
            SteeringError: a gate is requested and the artifact has none (the message says why), or the given gate was
                calibrated on another model or with another instruction.

        """
        if isinstance(choice, Gate):
            self._check_gate(choice)
            return choice
        if not (self.gate_by_default if choice is None else choice):
            return None
        if self.gate is None:
            reason = self.metadata.get("no_gate", "it was calibrated without one")
            raise SteeringError(f"this steering has no gate: {reason}; steer without a gate, or run calibrate again")
        return self.gate.with_mode(choice) if isinstance(choice, str) else self.gate

    def _check_gate(self, gate: Gate) -> None:
        """Refuse a gate of another model or instruction. One that records neither was written by hand and is used."""
        expected = {"fingerprint": self.fingerprint.digest, "instruction": self.metadata["instruction"]}
        for name, what in (("fingerprint", "on another model"), ("instruction", "with another instruction")):
            if gate.metadata.get(name, expected[name]) != expected[name]:
                raise SteeringError(
                    f"this gate was calibrated {what} than this steering; use the steering's gate, or run calibrate "
                    "again"
                )

    def with_gate(self, gate: Gate | None) -> Steering:
        """The same artifact with another gate, such as ``steering.gate.with_threshold(0.5)``; None removes it.

        Raises:
            SteeringError: the gate was calibrated on another model or with another instruction.

        """
        if gate is not None:
            self._check_gate(gate)
        metadata = dict(self.metadata)
        if gate is None:
            metadata["no_gate"] = "it was removed"
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
        """The same artifact with other defaults; values left out stay as they are.

        Raises:
            SteeringError: as in ``resolve``.

        """
        gated = self.gate_by_default if gate is None else bool(gate)
        weights = None if layer_weights is None else tuple(layer_weights)
        chosen = self.resolve(Strength(alpha, k, lambda_, weights, gated))
        defaults: dict[str, Any] = {"alpha": chosen.alpha, "k": chosen.k, "lambda": chosen.lambda_}
        if any(weight != 1 for weight in chosen.layer_weights):  # otherwise the file stays readable by version 1
            defaults["layer_weights"] = list(chosen.layer_weights)
        if gated or "gate" in self.metadata.get("defaults", {}):
            defaults["gate"] = gated
        return replace(self, metadata={**self.metadata, "defaults": defaults})

    def report(
        self, alpha: float | None = None, k: int | None = None, lambda_: float | None = None
    ) -> list[LayerReport]:
        """Norms, kept share and relative strength of every layer."""
        from sarsteer.steering.diagnostics import layer_reports

        strength = self.resolve(Strength(alpha, k, lambda_, gate=False))
        return layer_reports(strength, self.refusal, self.safe_basis, self.singular_values, self.activation_norms)

    def suggest(self) -> Suggestion:
        """A strength in closed form, from the calibrated vectors only: where a search starts."""
        from sarsteer.steering.suggestion import suggest

        return suggest(self.refusal, self.safe_basis, self.singular_values, self.activation_norms)

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
            gate: steer only requests that open the gate, see ``GateChoice``; the paper has no gate.
                ``handle.decisions`` returns what it decided.
            allow_other_model: accept other weights than the calibrated ones, such as a quantized copy of the same
                model. Shapes must still agree.
            layers: dotted path to a bare model's decoder layers, if they are not found.

        Raises:
            ArtifactError: the model is not the calibrated one.
            SteeringError: the hooks would not steer every forward exactly, or a value is invalid as in ``resolve``;
                the model is unchanged.
            SteeringWarning: a warning that the steering does nothing, or steers away from refusal.
            ModelError: the model has no accessible activations, such as one behind an API.

        """
        if isinstance(model, nn.Module):
            module, found, probe = model, find_decoder_layers(model, layers), None
        else:
            model.check_steerable()
            module, found, probe = model.module, model.decoder_layers, model.probe
        if allow_other_model:  # weights that cannot be sampled are allowed too
            self._check_shape(len(found), hidden_size(module))
        else:
            self.check_model(fingerprint_of(module, found))
        weights = None if layer_weights is None else tuple(layer_weights)
        strength = self.resolve(Strength(alpha, k, lambda_, weights, gate))
        if strength.weakness is not None:
            warnings.warn(f"this steering does not defend: {strength.weakness}", SteeringWarning, stacklevel=2)
        return attach(module, found, strength, probe)

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
        """``attach`` for the duration of a ``with`` block."""
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
        """Fingerprint of the calibrated model."""
        return Fingerprint.from_json(json.dumps(self.metadata["fingerprint"]))

    def check_model(self, other: Fingerprint, *, allow_other_model: bool = False) -> None:
        """Raise ``ArtifactError`` unless ``other`` is the calibrated model."""
        self._check_shape(other.layers, other.hidden_size)
        difference = self.fingerprint.difference(other)
        if difference is not None and not allow_other_model:
            name = self.metadata.get("model", {}).get("name")
            raise ArtifactError(
                f"this steering was calibrated on another model ({name}: {difference}); calibrate this model, or allow "
                "it explicitly if it is a quantized copy"
            )

    def _check_shape(self, layers: int, width: int) -> None:
        expected = tuple(self.refusal.shape)
        if (layers, width) != expected:
            raise ArtifactError(
                f"this steering has {expected[0]} layers of width {expected[1]}, the model {layers} of {width}; "
                "calibrate this model"
            )

    # ---- files ---------------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 of tensors, metadata and gate: identifies the artifact in reports and workers."""
        digest = hashlib.sha256()
        for name in TENSORS:
            digest.update(name.encode())
            digest.update(getattr(self, name).float().contiguous().numpy().tobytes())
        digest.update(json.dumps(self.metadata, sort_keys=True).encode())
        if self.gate is not None:
            digest.update(self.gate.digest.encode())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, whole or not at all."""
        return write_file(path, {name: getattr(self, name) for name in TENSORS}, self.metadata, self.gate)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Steering:
        """Read a file that ``save`` wrote, or the one in a folder.

        Raises:
            ArtifactError: the file is missing, damaged, in another format, or inconsistent.

        """
        tensors, metadata, gate = read_file(path)
        try:
            return cls(**tensors, metadata=metadata, gate=gate)
        except ArtifactError as error:
            raise error.at(str(file_in(path))) from None

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
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ArtifactError(
                f"neither a file nor a reachable Hub repository with {FILE_NAME} ({reason}); check the name",
                place=str(name_or_path),
            ) from None


def _check_shapes(steering: Steering) -> None:
    """Raise ``ArtifactError`` unless the tensors fit together and are finite."""
    if steering.refusal.ndim != 2 or steering.safe_basis.ndim != 3:
        raise ArtifactError("its vectors have the wrong number of dimensions; run calibrate again")
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
            raise ArtifactError(f"{name} has shape {tuple(tensor.shape)} instead of {shape}; run calibrate again")
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{name} contains NaN or infinite values; run calibrate again")
    gate = steering.gate
    if gate is not None and (gate.layer >= layers - 1 or len(gate.weight) != width):
        raise ArtifactError(
            f"its gate (layer {gate.layer}, width {len(gate.weight)}) does not fit {layers} layers of width {width}; "
            "run calibrate again"
        )
    for key, value in (("layers", layers), ("hidden_size", width)):
        if key in steering.metadata and steering.metadata[key] != value:
            raise ArtifactError(
                f"its metadata has {key} = {steering.metadata[key]}, its tensors {value}; run calibrate again"
            )
