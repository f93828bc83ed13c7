"""A model that vLLM runs, as calibration sees it: prompts in, last-prompt-token activations out.

Prompts are made by the transformers processor, exactly as for the transformers engine; a skeleton without weights knows
the family's limits and templates. vLLM then hears the clips and runs the decoder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sarsteer.errors import MissingExtraError, ModelError, SteeringError
from sarsteer.messages import Conversation
from sarsteer.models.control_tokens import refuse_control_tokens
from sarsteer.models.fingerprint import Fingerprint
from sarsteer.vllm.capture import CAPTURE
from sarsteer.vllm.checkpoint import checkpoint_fingerprint, checkpoint_folder
from sarsteer.vllm.settings import KEY
from sarsteer.vllm.versions import check_version

if TYPE_CHECKING:
    from sarsteer.models.base import AudioLanguageModel


@dataclass(frozen=True)
class VllmPrompt:
    """One conversation as vLLM takes it: tokens with one placeholder a clip, and the clips."""

    token_ids: list[int]
    clips: list[Any] = field(repr=False)


class VllmActivations:
    """What ``calibrate`` needs of a model, answered by vLLM.

    Args:
        name_or_path: ``"sarsteer-tiny"``, a folder, or a name on the Hub whose files are on this machine.
        dtype: such as ``"bfloat16"``; the checkpoint's own by default.
        revision: branch, tag or commit on the Hub.
        options: of ``vllm.LLM``: ``tensor_parallel_size``, ``max_model_len``, ...

    Raises:
        MissingExtraError: vLLM is not installed.
        SteeringError: this vLLM was not tested, or this process is told to steer.
        ModelError: the family's prompts are made in a way of its own, which vLLM does not share.

    """

    def __init__(
        self, name_or_path: str, *, dtype: str | None = None, revision: str | None = None, **options: Any
    ) -> None:
        check_version()
        if os.environ.get("SARSTEER_STEERING"):
            raise SteeringError("SARSTEER_STEERING is set; unset it before calibrating: activations must be unsteered")
        from sarsteer import tiny

        embedded = name_or_path == tiny.NAME
        self.name, self.revision = name_or_path, revision
        self.folder: Path = tiny.model_folder() if embedded else checkpoint_folder(name_or_path, revision)
        self.dtype = dtype or ("float32" if embedded else "auto")
        self.skeleton = skeleton_of(self.folder, name_or_path, revision)
        self.family = replace(self.skeleton.family, prefix_reuse=False)  # the prefix cache shares what can be shared
        self.decoder_layers = self.skeleton.decoder_layers
        self.hidden_size = self.skeleton.hidden_size
        self.module = nn.Module()
        self._llm = _engine(str(self.folder), self.dtype, options)

    steered = False

    def check_steerable(self) -> None:
        """It can be calibrated."""

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Of the checkpoint, in the type that it runs in."""
        found = checkpoint_fingerprint(self.folder, self.skeleton.module.config)
        ran = str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")
        return replace(found, dtype=ran)

    def prepare(self, conversations: Sequence[Conversation], *, remember: bool = True) -> list[VllmPrompt]:
        """Check conversations and write their prompts; ``remember`` has no meaning here."""
        return [self._prompt(conversation, index) for index, conversation in enumerate(conversations)]

    def _prompt(self, conversation: Conversation, index: int) -> VllmPrompt:
        messages, clips = self.skeleton.read(conversation, index)
        refuse_control_tokens([messages], self.skeleton.tokenizer)
        text = self.skeleton.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self.skeleton.tokenizer(text, add_special_tokens=False)["input_ids"]
        return VllmPrompt(list(ids), [(clip.samples, clip.rate) for clip in clips])

    def paired_activations(
        self, plain: Sequence[Conversation], prompted: Sequence[Conversation]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations of two arms, each ``[B, L, D]``; vLLM's prefix cache shares what can be shared."""
        first, second = (self.last_token_activations(self.prepare(arm)) for arm in (plain, prompted))
        return first, second

    def last_token_activations(self, prompts: Sequence[VllmPrompt], *, batch_size: int = 16) -> torch.Tensor:
        """``[B, L, D]``, float32, on the CPU; vLLM batches as it likes."""
        from vllm import SamplingParams

        requests = [
            {"prompt_token_ids": prompt.token_ids, "multi_modal_data": {"audio": prompt.clips}}
            if prompt.clips
            else {"prompt_token_ids": prompt.token_ids}
            for prompt in prompts
        ]
        self._llm.collective_rpc("sarsteer_take")  # whatever warming up left
        answers = self._llm.generate(requests, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
        read: dict[str, dict[int, bytes]] = {}
        for worker in self._llm.collective_rpc("sarsteer_take"):
            for request_id, layers in worker.items():
                outer = request_id.rsplit("-", 1)[0]  # vLLM adds a random part to the id that it was given
                read.setdefault(outer, {}).update({int(number): data for number, data in layers.items()})
        out = torch.empty(len(prompts), len(self.decoder_layers), self.hidden_size)
        for row, answer in enumerate(answers):
            found = read.get(answer.request_id, {})
            if sorted(found) != list(range(len(self.decoder_layers))):
                raise SteeringError(
                    f"vLLM's workers read {len(found)} of {len(self.decoder_layers)} layers; report this"
                )
            for number, data in found.items():
                out[row, number] = torch.frombuffer(bytearray(data), dtype=torch.float32)
        return out


def skeleton_of(folder: Path, name: str, revision: str | None) -> AudioLanguageModel:
    """The model's class and processor, with no weights.

    Raises:
        ModelError: the family is loaded or prompted in a way of its own.

    """
    import transformers

    from sarsteer.models.base import AudioLanguageModel
    from sarsteer.models.families.registry import family_named

    config = transformers.AutoConfig.from_pretrained(folder)
    (architecture,) = (getattr(config, "architectures", None) or ["none named"])[:1]
    family = family_named(architecture)
    model_class = getattr(transformers, architecture, None)
    if model_class is None or (family is not None and (family.wrapper or family.loader)):
        raise ModelError(
            f"{name}: {architecture} is not calibrated inside vLLM; use --engine transformers, its file serves in vLLM"
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
    from sarsteer.vllm.plugin import register

    register()
    return LLM(model=model, dtype=dtype, enforce_eager=True, additional_config={KEY: CAPTURE}, **options)
