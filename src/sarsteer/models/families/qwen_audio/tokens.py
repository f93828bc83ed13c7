"""Qwen-Audio's tokens, read from its ``qwen.tiktoken`` without the checkpoint's tokenizer code.

That code needs matplotlib, Pillow and requests, fails if the configuration names an end token, and reads control tokens
and file names from the user's text. Here the same vocabulary is used with the same pattern, and a text never yields a
control token. ``config.audio`` gives the id of ``<audio>``: the chat model's differs by one from the base model's.
"""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Iterable
from typing import Any

import torch

from sarsteer.errors import MissingExtraError, ModelError

_RESERVED = 208  # <|endoftext|>, <|im_start|>, <|im_end|> and 205 extra tokens come before the audio tokens


class QwenTokens:
    """Text to tokens and back, with the checkpoint's ``qwen.tiktoken``.

    Args:
        path: the ``qwen.tiktoken`` file; each line is a token in base64 and its rank.
        audio_start: the id of ``<audio>``; the next id is ``</audio>``.

    """

    padding_side = "left"

    def __init__(self, path: str | os.PathLike[str], audio_start: int) -> None:
        try:
            import tiktoken
        except ImportError:
            raise MissingExtraError("reading Qwen-Audio's tokens", "qwen-audio") from None
        from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

        with open(path, "rb") as file:
            lines = [line.split() for line in file if line.strip()]
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        self._encoding = tiktoken.Encoding("qwen", pat_str=PRETOKENIZE_REGEX, mergeable_ranks=ranks, special_tokens={})
        self.end_of_text = len(ranks)
        self.im_start, self.im_end = self.end_of_text + 1, self.end_of_text + 2
        self.audio_fill = self.end_of_text + _RESERVED
        self.audio_start, self.audio_end = audio_start, audio_start + 1
        if audio_start <= self.audio_fill:
            raise ModelError(
                f"{os.fspath(path)}: {len(ranks)} tokens are too many for audio_start_id={audio_start} of config.json; "
                "take both files from the same checkpoint"
            )
        self.pad_token_id = self.eos_token_id = self.end_of_text
        self.stop = [self.end_of_text, self.im_end, self.im_start]

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``; control tokens in it are encoded as plain text."""
        return self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    def decode(self, tokens: Any, skip_special_tokens: bool = True, **_options: Any) -> str:
        """The text of ``tokens``; control tokens are skipped, or written by number."""
        pieces: list[bytes] = []
        for token in tokens.tolist() if torch.is_tensor(tokens) else tokens:
            if token < self.end_of_text:
                pieces.append(self._encoding.decode_single_token_bytes(token))
            elif not skip_special_tokens:
                pieces.append(b"<|%d|>" % token)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def batch_decode(self, rows: Iterable[Any], skip_special_tokens: bool = True, **_options: Any) -> list[str]:
        """The text of each row."""
        return [self.decode(row, skip_special_tokens) for row in rows]
