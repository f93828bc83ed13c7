"""A modality that the package has never heard of: vibrations, with a processor and a model of their own.

Everything here is what a user would write to add one; the package's core is not touched.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
import transformers as T
from torch import nn
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import CausalLMOutputWithPast

from sarsteer import AudioLanguageModel
from sarsteer.errors import MessageError
from sarsteer.modalities import Modality, register_modality
from tests.support.families import LANGUAGE, template
from tests.support.tiny import byte_tokenizer

PATCH = 50  # samples a token: a tenth of a second of acceleration at 500 Hz
PLACE = "<|vibration|>"
_UNMARKED = re.compile(r"(?<!\U000f0000)" + re.escape(PLACE))  # transformers marks the control tokens of a user's text


def read_vibration(part: dict[str, Any], where: str) -> np.ndarray:
    """A waveform ``[T]``, given as such or as a ``.npy`` file."""
    wave = part.get("haptic")
    if wave is None:
        try:
            wave = np.load(part["path"])
        except (OSError, KeyError, ValueError) as error:
            raise MessageError(f"{where}: its vibration cannot be read ({error}); give a .npy file") from None
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1 or len(wave) < PATCH or not np.isfinite(wave).all():
        raise MessageError(f"{where}: a vibration is a waveform of at least {PATCH} finite samples")
    return wave


def register() -> None:
    register_modality(Modality("haptic", processor_key="haptics", read=read_vibration))


class HapticProcessor(T.ProcessorMixin):  # type: ignore[misc]
    """Places as many tokens as a vibration has patches."""

    modalities = ("haptic",)

    def __init__(self, tokenizer: Any, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)

    def __call__(self, text: Any = None, haptics: Any = None, **options: Any) -> BatchFeature:
        rows = [text] if isinstance(text, str) else list(text)
        waves = [wave for row in haptics or [] for wave in row]
        counts = iter([len(wave) // PATCH for wave in waves])
        texts = [PLACE.join(_repeated(_UNMARKED.split(row), counts)) for row in rows]
        options.pop("images", None), options.pop("videos", None), options.pop("audio", None)
        made = self.tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            sanitize_control_tokens=options.get("sanitize_control_tokens", False),
        )
        if waves:
            made["patches"] = torch.cat(
                [torch.from_numpy(w[: len(w) // PATCH * PATCH].reshape(-1, PATCH)) for w in waves]
            )
        return BatchFeature(dict(made))


def _repeated(pieces: list[str], counts: Any) -> list[str]:
    """``pieces`` with as many empty ones at each joint as the vibration there has patches, less one."""
    out = [pieces[0]]
    for piece in pieces[1:]:
        out += [""] * (next(counts) - 1) + [piece]
    return out


class HapticModel(T.Qwen2ForCausalLM):  # type: ignore[misc]
    """A text decoder that feels: patches of vibration take the places that wait for them."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.feel = nn.Linear(PATCH, config.hidden_size)

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, patches: Any = None, **more: Any
    ) -> CausalLMOutputWithPast:
        if patches is not None:
            embeds = self.get_input_embeddings()(input_ids)
            where = (input_ids == self.config.haptic_token_id)[..., None]
            more["inputs_embeds"] = embeds.masked_scatter(where, self.feel(patches).to(embeds.dtype))
            input_ids = None
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)

    @property
    def base_model(self) -> Any:
        """What a capture runs: this model, since the base alone feels nothing."""
        return self

    def prepare_inputs_for_generation(self, input_ids: Any, patches: Any = None, **kwargs: Any) -> Any:
        made = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if made["input_ids"].shape[1] > 1:  # the prompt; decoding feels no more
            made["patches"] = patches
        return made


def make() -> AudioLanguageModel:
    register()
    tokenizer = byte_tokenizer(PLACE)
    torch.manual_seed(0)
    config = T.Qwen2Config(**{**LANGUAGE, "vocab_size": len(tokenizer)})
    config.haptic_token_id = tokenizer.convert_tokens_to_ids(PLACE)
    look = template().replace("{%- elif part['type'] == 'audio' -%}", "{%- elif part['type'] == 'haptic' -%}")
    look = look.replace("<|audio|>", PLACE)
    model = HapticModel(config).eval()
    model.generation_config.eos_token_id = None
    return AudioLanguageModel(model, HapticProcessor(tokenizer, look), name="tiny-haptic")
