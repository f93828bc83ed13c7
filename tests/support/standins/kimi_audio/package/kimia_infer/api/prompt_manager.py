"""Two token streams from chat messages, and the continuous features of their audio."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import soundfile
import torch

NAMES = (
    "msg_end",
    "kimia_user_msg_start",
    "media_begin",
    "media_end",
    "kimia_text_blank",
    "kimia_text_eos",
    "kimia_assistant_msg_start",
    "kimia_speech_ct_id",
    "kimia_speech_ctd_id",
)
FRAME = 1280  # samples: 12.5 tokens per second
CHUNK = 30 * 16_000
PARTS = 12


@dataclass
class ExtraTokens:
    msg_end: int
    kimia_user_msg_start: int
    media_begin: int
    media_end: int
    kimia_text_blank: int
    kimia_text_eos: int
    kimia_assistant_msg_start: int
    kimia_speech_ct_id: int
    kimia_speech_ctd_id: int


class Bytes:
    """A tokenizer with one token per byte. Control tokens in a text are text, unless they are allowed."""

    def __init__(self) -> None:
        self.special_tokens = {f"<|im_{name}|>": 256 + index for index, name in enumerate(NAMES)}

    def encode(self, s: str, *, bos: bool, eos: bool, allowed_special: tuple[str, ...] = ()) -> list[int]:
        for token in allowed_special:
            head, match, tail = s.partition(token)
            if match:
                options = dict(bos=False, eos=False, allowed_special=allowed_special)
                return [*self.encode(head, **options), self.special_tokens[token], *self.encode(tail, **options)]
        return list(s.encode())

    def decode(self, ids: list[int]) -> str:
        names = {number: name for name, number in self.special_tokens.items()}
        return b"".join(names[i].encode() if i in names else bytes([i % 256]) for i in ids).decode(errors="replace")


@dataclass
class KimiAContent:
    audio_token_ids: list[int] = field(default_factory=list)
    text_token_ids: list[int] = field(default_factory=list)
    is_continuous_mask: list[bool] = field(default_factory=list)
    continuous_feature: list[torch.Tensor] = field(default_factory=list)

    def add(self, audio: list[int], text: list[int], continuous: bool = False) -> None:
        assert len(audio) == len(text)
        self.audio_token_ids += audio
        self.text_token_ids += text
        self.is_continuous_mask += [continuous] * len(audio)

    def to_tensor(self) -> tuple[torch.Tensor, ...]:
        unused = torch.zeros(1, len(self.audio_token_ids), dtype=torch.bool)  # the real one: masks of the loss
        return (
            torch.tensor([self.audio_token_ids], dtype=torch.long),
            torch.tensor([self.text_token_ids], dtype=torch.long),
            torch.tensor([self.is_continuous_mask], dtype=torch.bool),
            unused,
            unused,
        )


class KimiAPromptManager:
    def __init__(self, model_path: str, kimia_token_offset: int, kimia_text_audiodelaytokens: int) -> None:
        self.text_tokenizer = Bytes()
        self.extra_tokens = ExtraTokens(**{name: 256 + index for index, name in enumerate(NAMES)})
        self.kimia_token_offset = kimia_token_offset
        self.read: list[str] = []  # for the tests

    def _sound(self, path: str) -> tuple[list[int], torch.Tensor]:
        self.read.append(path)
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000
        frames: list[np.ndarray] = []
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            chunk = np.pad(chunk, (0, -len(chunk) % FRAME))
            frames += list(chunk.reshape(-1, FRAME))
        features = np.stack([[np.abs(part).mean() for part in np.array_split(frame, PARTS)] for frame in frames])
        tokens = [self.kimia_token_offset + int(1e4 * abs(float(frame.sum()))) % 32 for frame in frames]
        return tokens, 20 * torch.tensor(features, dtype=torch.float32)[None]

    def get_prompt(self, messages: list[dict], output_type: str = "text") -> KimiAContent:
        assert output_type in ("text", "both")
        extra, out, previous = self.extra_tokens, KimiAContent(), None
        blank = extra.kimia_text_blank
        for index, message in enumerate(messages):
            role, kind = message["role"], message["message_type"]
            assert role in ("user", "assistant")
            if role != previous:
                start = extra.kimia_user_msg_start if role == "user" else extra.kimia_assistant_msg_start
                out.add([start], [blank])
            ends = index + 1 == len(messages) or messages[index + 1]["role"] != role
            if kind == "text":
                ids = self.text_tokenizer.encode(message["content"], bos=False, eos=False)
                ids += [extra.kimia_text_eos] if role == "assistant" else []
                out.add([blank] * len(ids), ids)
            elif kind == "audio":
                tokens, features = self._sound(message["content"])
                out.add([extra.media_begin], [blank])
                out.add(tokens, [blank] * len(tokens), continuous=True)
                out.add([extra.media_end], [blank])
                out.continuous_feature.append(features)
                if ends:
                    out.add([extra.kimia_speech_ct_id if output_type == "text" else extra.kimia_speech_ctd_id], [blank])
            else:
                raise NotImplementedError(kind)
            if ends:
                out.add([extra.msg_end], [blank])
            previous = role
        out.add([extra.kimia_assistant_msg_start], [blank])
        return out
