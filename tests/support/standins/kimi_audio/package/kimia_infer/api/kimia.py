"""The stand-in's inference: loads the checkpoint itself, and decodes two streams in its own loop."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from .prompt_manager import KimiAPromptManager

KEPT = 4096


def _device() -> torch.device:
    """The device of the real package; the stand-in's loop uses its module's device."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class KimiAudio:
    def __init__(self, model_path: str, load_detokenizer: bool = True) -> None:
        assert not load_detokenizer, "the stand-in makes no sound"
        self.alm = AutoModelForCausalLM.from_pretrained(model_path, torch_dtype=torch.bfloat16, trust_remote_code=True)
        self.alm = self.alm.to(_device())
        self.kimia_token_offset = self.alm.config.kimia_token_offset
        self.kimia_text_audiodelaytokens = self.alm.config.kimia_mimo_audiodelaytokens
        self.prompt_manager = KimiAPromptManager(
            model_path, self.kimia_token_offset, kimia_text_audiodelaytokens=self.kimia_text_audiodelaytokens
        )
        self.detokenizer = None
        self.extra_tokens = self.prompt_manager.extra_tokens
        self.eod_ids = [self.extra_tokens.msg_end, self.extra_tokens.media_end]

    @torch.inference_mode()
    def _generate_loop(
        self,
        audio_input_ids: torch.Tensor,
        text_input_ids: torch.Tensor,
        max_new_tokens: int = 50,
        audio_top_k: int = 5,
        audio_temperature: float = 0.0,
        audio_repetition_penalty: float = 1.0,
        audio_repetition_window_size: int = 64,
        text_top_k: int = 5,
        text_temperature: float = 0.0,
        text_repetition_penalty: float = 1.0,
        text_repetition_window_size: int = 16,
        is_continuous_mask: torch.Tensor | None = None,
        continous_feature: list[torch.Tensor] | None = None,
        output_type: str = "text",
    ) -> tuple[list[int], list[int]]:
        blank, cache, position = self.extra_tokens.kimia_text_blank, None, audio_input_ids.shape[1]
        here = self.alm.device
        position_ids = torch.arange(position, device=here)[None]
        texts: list[int] = []
        sounds: list[int] = []
        ended = False
        for step in range(max_new_tokens):
            sound_logits, text_logits, cache = self.alm.forward(
                input_ids=audio_input_ids,
                text_input_ids=text_input_ids,
                whisper_input_feature=continous_feature,
                is_continuous_mask=is_continuous_mask,
                position_ids=position_ids,
                past_key_values=cache,
                return_dict=False,
            )
            text = blank if ended else _pick(text_logits[0, -1], text_temperature, text_top_k)
            sound = _pick(sound_logits[0, -1], audio_temperature, audio_top_k)
            sound = blank if step < self.kimia_text_audiodelaytokens or output_type == "text" else sound
            if text == self.extra_tokens.kimia_text_eos:
                ended = True
            elif not ended:
                texts.append(text)
            if sound != blank:
                sounds.append(sound)
            if (ended and output_type == "text") or (sound in self.eod_ids and output_type == "both"):
                break
            audio_input_ids = torch.tensor([[sound]], device=here)
            text_input_ids = torch.tensor([[text]], device=here)
            position_ids = torch.tensor([[position + step]], device=here)
            continous_feature = is_continuous_mask = None
        return sounds, texts[:KEPT]

    @torch.inference_mode()
    def generate(
        self, chats: list[dict], output_type: str = "text", max_new_tokens: int = -1, **sampling: float
    ) -> tuple[None, str]:
        history = self.prompt_manager.get_prompt(chats, output_type=output_type)
        audio_input_ids, text_input_ids, is_continuous_mask, _, _ = history.to_tensor()
        _, tokens = self._generate_loop(
            audio_input_ids=audio_input_ids.to(self.alm.device),
            text_input_ids=text_input_ids.to(self.alm.device),
            is_continuous_mask=is_continuous_mask.to(self.alm.device),
            continous_feature=[feature.to(self.alm.device) for feature in history.continuous_feature] or None,
            max_new_tokens=max_new_tokens if max_new_tokens != -1 else 7500 - audio_input_ids.shape[1],
            output_type=output_type,
            **sampling,
        )
        return None, self.detokenize_text([token for token in tokens if token < self.kimia_token_offset])

    def detokenize_text(self, text_tokens: list[int]) -> str:
        end = self.extra_tokens.kimia_text_eos
        kept = text_tokens[: text_tokens.index(end)] if end in text_tokens else text_tokens
        return self.prompt_manager.text_tokenizer.decode(kept)


def _pick(logits: torch.Tensor, temperature: float, top_k: int) -> int:
    if temperature <= 1e-6:
        return int(logits.argmax())
    best, where = logits.float().topk(top_k)
    return int(where[torch.multinomial((best / temperature).softmax(-1), 1)])
