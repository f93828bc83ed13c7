"""Check that vLLM loads the weights that were calibrated. ``/sarsteer`` lists what was checked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sarsteer.errors import ArtifactError
from sarsteer.models.checkpoint import checkpoint_fingerprint, checkpoint_folder, same_architecture

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering

_PLAIN_FORMATS = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor")


def check_weights(config: Any, steering: Steering, *, allow_other_model: bool = False) -> list[str]:
    """Raise ``ArtifactError`` unless vLLM loads the calibrated weights; return what was checked, in words.

    Layers, width, architecture and vocabulary come from the model's configuration. The weights of the decoder layers
    are sampled in its files; those of other parts (encoder, projector, embeddings, head, adapters) are not compared.
    That vLLM loads what is in the files is assumed. Weights from elsewhere, and weights that are quantized while
    loading, count as another model.

    Args:
        config: the ``VllmConfig``.
        steering: the artifact.
        allow_other_model: check layers and width only.

    """
    model = config.model_config
    text = model.hf_text_config
    layers, width = steering.refusal.shape
    if (text.num_hidden_layers, text.hidden_size) != (layers, width):
        raise ArtifactError(
            f"this steering has {layers} layers of width {width}, the model {text.num_hidden_layers} of "
            f"{text.hidden_size}; calibrate this model"
        )
    if allow_other_model:
        return ["layers", "width"]
    fix = "calibrate this model, or set SARSTEER_ALLOW_OTHER_MODEL=1 if it is a copy of the calibrated one"
    if model.quantization is not None:
        raise ArtifactError(f"the model is quantized ({model.quantization}), so its weights differ; {fix}")
    load_format = str(getattr(config.load_config.load_format, "value", config.load_config.load_format))
    if load_format not in _PLAIN_FORMATS:
        raise ArtifactError(f"--load-format {load_format}: these weights cannot be checked; {fix}")
    folder = checkpoint_folder(model.model, model.revision, config.load_config.download_dir)
    fingerprint = checkpoint_fingerprint(folder, model.hf_config)
    if same_architecture(steering.fingerprint.architecture, fingerprint.architecture):
        fingerprint = replace(fingerprint, architecture=steering.fingerprint.architecture)
    if steering.fingerprint.dtype == "float32":  # in artifacts without samples by part: compare bit by bit
        fingerprint = replace(fingerprint, dtype="float32")
    difference = steering.fingerprint.difference(fingerprint)
    if difference is not None:
        name = steering.metadata.get("model", {}).get("name")
        raise ArtifactError(
            f"this steering was calibrated on another model than this one ({name}: {difference}); {fix}"
        )
    return ["layers", "width", "architecture", "vocabulary", "a sample of every decoder weight on disk"]
