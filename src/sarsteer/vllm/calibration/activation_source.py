"""A model that runs in vLLM, as an ``ActivationSource`` for calibration.

The transformers processor writes the prompts, exactly as for the transformers engine; a skeleton of the model without
weights provides the family's limits and template. vLLM then encodes the clips and runs the decoder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sarsteer.errors import AudioError, MessageError, MissingExtraError, ModelError, SteeringError
from sarsteer.messages import Conversation, read_conversation
from sarsteer.models.checkpoint import checkpoint_fingerprint, checkpoint_folder
from sarsteer.models.control_tokens import refuse_control_tokens
from sarsteer.models.fingerprint import Fingerprint
from sarsteer.models.packaged import PACKAGED, read_origin
from sarsteer.vllm import register
from sarsteer.vllm.calibration.capture import CAPTURE
from sarsteer.vllm.settings import KEY
from sarsteer.vllm.versions import check_version

if TYPE_CHECKING:
    from sarsteer.models.audio_language_model import AudioLanguageModel


@dataclass(frozen=True)
class VllmPrompt:
    """One conversation as vLLM takes it: tokens with one placeholder per clip, and the clips."""

    token_ids: list[int]
    clips: list[Any] = field(repr=False)


class VllmActivationSource:
    """Reads last-prompt-token activations in vLLM's workers; an ``ActivationSource``.

    Args:
        name_or_path: ``"sarsteer-small"``, ``"sarsteer-tiny"``, a folder, or a name on the Hub whose files are on
            this machine.
        dtype: such as ``"bfloat16"``; the checkpoint's dtype by default.
        revision: branch, tag or commit on the Hub.
        options: options of ``vllm.LLM``: ``tensor_parallel_size``, ``max_model_len``, ...

    Raises:
        MissingExtraError: vLLM is not installed.
        SteeringError: this vLLM was not tested, or steering is configured in this process.
        ModelError: the family has its own prompt code, which vLLM does not share.

    """

    steered = False

    def __init__(
        self, name_or_path: str, *, dtype: str | None = None, revision: str | None = None, **options: Any
    ) -> None:
        check_version()
        if os.environ.get("SARSTEER_STEERING"):
            raise SteeringError("SARSTEER_STEERING is set; unset it before calibrating: activations must be unsteered")
        packaged = PACKAGED.get(name_or_path)
        self.name, self.revision = name_or_path, revision
        self.folder: Path = checkpoint_folder(name_or_path, revision) if packaged is None else packaged.folder()
        self.origin = read_origin(self.folder)
        self.skeleton = skeleton_of(self.folder, name_or_path, revision)
        self._llm = _engine(str(self.folder), dtype or ("auto" if packaged is None else packaged.dtype(None)), options)

    @property
    def family_name(self) -> str:
        """Name of the model's family."""
        return self.skeleton.family_name

    @property
    def layer_count(self) -> int:
        """Number of decoder layers, L."""
        return self.skeleton.layer_count

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream, D."""
        return self.skeleton.hidden_size

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Identifies the checkpoint's weights, in the dtype that vLLM runs them in."""
        dtype = str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")
        return replace(checkpoint_fingerprint(self.folder, self.skeleton.module.config), dtype=dtype)

    def check_steerable(self) -> None:
        """Do nothing: a model that vLLM loaded here can be calibrated."""

    def prepare(self, conversations: Sequence[Conversation], *, remember: bool = True) -> list[VllmPrompt]:
        """Check conversations and write their prompts. ``remember`` is ignored: vLLM has its own caches."""
        return [self._prompt(conversation, index) for index, conversation in enumerate(conversations)]

    def _prompt(self, conversation: Conversation, index: int) -> VllmPrompt:
        try:
            messages, clips = read_conversation(conversation, self.skeleton.input_limits)
            refuse_control_tokens([messages], self.skeleton.tokenizer)
        except (AudioError, MessageError) as error:
            raise error.at(f"conversation {index}", index) from None
        text = self.skeleton.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self.skeleton.tokenizer(text, add_special_tokens=False)["input_ids"]
        return VllmPrompt(list(ids), [(clip.samples, clip.rate) for clip in clips])

    def last_token_activations(self, prompts: Sequence[VllmPrompt], *, batch_size: int = 16) -> torch.Tensor:
        """``[B, L, D]`` in float32 on the CPU. ``batch_size`` is ignored: vLLM batches by itself."""
        from vllm import SamplingParams

        requests = [
            {"prompt_token_ids": prompt.token_ids, "multi_modal_data": {"audio": prompt.clips}}
            if prompt.clips
            else {"prompt_token_ids": prompt.token_ids}
            for prompt in prompts
        ]
        self._llm.collective_rpc("sarsteer_take")  # discard what warm-up left
        answers = self._llm.generate(requests, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
        activations: dict[str, dict[int, bytes]] = {}
        for worker in self._llm.collective_rpc("sarsteer_take"):
            for worker_id, layers in worker.items():
                request_id = worker_id.rsplit("-", 1)[0]  # vLLM appends a random part
                activations.setdefault(request_id, {}).update({int(number): data for number, data in layers.items()})
        out = torch.empty(len(prompts), self.layer_count, self.hidden_size)
        for row, answer in enumerate(answers):
            layers = activations.get(answer.request_id, {})
            if sorted(layers) != list(range(self.layer_count)):
                raise SteeringError(f"vLLM's workers read {len(layers)} of {self.layer_count} layers; report this")
            for number, data in layers.items():
                out[row, number] = torch.frombuffer(bytearray(data), dtype=torch.float32)
        return out

    def paired_activations(
        self, plain: Sequence[Conversation], prompted: Sequence[Conversation]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations of two arms, each ``[B, L, D]``. vLLM's prefix cache shares their common prefixes."""
        prepared = self.prepare(plain), self.prepare(prompted)
        return self.last_token_activations(prepared[0]), self.last_token_activations(prepared[1])


def skeleton_of(folder: Path, name: str, revision: str | None) -> AudioLanguageModel:
    """The model's class and processor, without weights.

    Raises:
        ModelError: the family has its own code for loading or prompts.

    """
    import transformers

    from sarsteer.models.audio_language_model import AudioLanguageModel
    from sarsteer.models.checkpoint import architecture_of
    from sarsteer.models.family import family_named

    config = transformers.AutoConfig.from_pretrained(folder)
    architecture = architecture_of(config)
    family = family_named(architecture)
    model_class = getattr(transformers, architecture, None)
    if model_class is None or (family is not None and (family.model_class or family.load)):
        raise ModelError(
            f"{architecture} cannot be calibrated inside vLLM; calibrate it with --engine transformers, then serve the "
            "file in vLLM",
            place=name,
        )
    with torch.device("meta"):
        module = model_class(config)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    return AudioLanguageModel(module, processor, name=name, revision=revision)


def _engine(model: str, dtype: str, options: dict[str, Any]) -> Any:
    try:
        from vllm import LLM
    except ImportError:
        raise MissingExtraError("calibrating in vLLM", "vllm") from None
    register()
    return LLM(model=model, dtype=dtype, enforce_eager=True, additional_config={KEY: CAPTURE}, **options)
