"""Qwen-Audio (v1): a family that exists as remote code alone, and was written for transformers 4.32.

``qwen_audio_compat`` lets that code, unmodified, run on transformers 5. Here are its loader, tokens and prompts.

What is the checkpoint's own: configuration, model, audio encoder, and the log-mel spectrogram (Whisper's, 80 bins,
30 s). What is ours:

- The tokens. Its tokenizer's code wants matplotlib, Pillow and requests, fails where its configuration names an end
  token, and reads control tokens and file names out of the user's text. ``QwenTokens`` reads the same
  ``qwen.tiktoken`` with the same splitting pattern, and nothing in a text is ever a control token. Where ``<audio>``
  is comes from ``config.audio``: the chat model's differs by one from the base model's.
- Clips are handed over as samples, not as paths that its code decodes with ffmpeg.
- Prompts are ChatML with "You are a helpful assistant." where the conversation has no system message; a clip is
  ``Audio 1:<audio>…</audio>`` and a line break, numbered through the conversation.

Limits:

- Tested on a stand-in of the same construction (``tests/standins/qwen_audio``), not on the published weights.
- ``trust_remote_code=True``, and the packages ``tiktoken`` and ``einops`` (``pip install 'sarsteer[qwen-audio]'``).
- Attention is PyTorch's own (``use_flash_attn`` is switched off), the key-value cache dynamic and not quantised.
- Where a batch grows beyond ``config.seq_length`` its log-n attention depends on the index of a position, padding
  included: rows of different lengths are then run one after the other, for the same answers as alone.
- Several clips of one conversation are each encoded alone; the published code encodes them together, where the
  shorter ones come out a little different.
- ``Qwen/Qwen-Audio`` is no chat model: it was trained on task tags, gets ChatML all the same, and its refusals will
  mean little.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from sarsteer.audio import Clip
from sarsteer.errors import AudioError, MessageError, MissingExtraError, ModelError
from sarsteer.messages import Conversation, Message
from sarsteer.models.base import AudioLanguageModel, Prompt
from sarsteer.models.batching import left_padded
from sarsteer.models.families.qwen_audio_compat import adapted, chosen_clips, clips_of_rows, importable
from sarsteer.models.layers import unwrap

SYSTEM = "You are a helpful assistant."
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_RESERVED = 208  # <|endoftext|>, <|im_start|>, <|im_end|> and 205 extras stand before the audio tokens


def load(source: str, config: Any, *, revision: str | None = None, **options: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Module, tokens and report of a Qwen-Audio checkpoint; see ``loading.load_with_transformers``."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.utils import cached_file

    if not isinstance(getattr(config, "audio", None), dict):
        raise ModelError(f"{source}: is the text-only Qwen, which hears nothing; give Qwen/Qwen-Audio-Chat")
    if not options.pop("trust_remote_code", False):
        raise ModelError(f"{source}: consists of its own Python code; read it, then give trust_remote_code=True")
    vocabulary = cached_file(source, "qwen.tiktoken", revision=revision)
    processor = QwenTokens(vocabulary, audio_start=config.audio["audio_start_id"])
    with importable():
        remote = get_class_from_dynamic_module(config.auto_map["AutoModelForCausalLM"], source, revision=revision)
    config = copy.deepcopy(config)
    config.bf16, config.fp16, config.fp32 = False, False, True  # dtype is transformers' matter, not its constructor's
    config.use_flash_attn = config.use_cache_quantization = config.use_cache_kernel = False
    model_class = adapted(remote)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a path
        module, report = model_class.from_pretrained(
            source, config=config, revision=revision, output_loading_info=True, **options
        )
    return module, processor, report


class QwenTokens:
    """Text to tokens and back, as the checkpoint's ``qwen.tiktoken`` has them.

    Args:
        path: the ``qwen.tiktoken`` file: a token in base64 and its rank a line.
        audio_start: the id of ``<audio>``; that of ``</audio>`` follows it.

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
        """The tokens of ``text``; what looks like a control token in it is plain text."""
        return self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    def decode(self, tokens: Any, skip_special_tokens: bool = True, **_options: Any) -> str:
        """The text of ``tokens``; control tokens are left out, or shown by number."""
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


class QwenAudio(AudioLanguageModel):
    """Qwen-Audio; made by ``load_model`` only."""

    def check_processor(self) -> None:
        """Accept only what ``load`` returns."""
        inner: Any = unwrap(self.module)
        if not isinstance(self.processor, QwenTokens) or not hasattr(type(inner), "remote"):
            raise ModelError(f"{self.name}: Qwen-Audio runs on transformers 5 only as sarsteer.load_model makes it")

    @property
    def sampling_rate(self) -> int:
        """The rate in Hz at which the model hears."""
        return 16_000

    @property
    def modalities(self) -> frozenset[str]:
        """Clips, beside text."""
        return frozenset({"audio"})

    # ---- prompts -------------------------------------------------------------------------------------------------

    def prepare(self, conversations: Sequence[Conversation], *, remember: bool = True) -> list[Prompt]:
        """Check and tokenise conversations and encode their clips; see ``AudioLanguageModel.prepare``."""
        read = [self.read(conversation, index) for index, conversation in enumerate(conversations)]
        for index, (messages, clips) in enumerate(read):
            for message in messages:
                if message["role"] not in _ROLES:
                    raise MessageError(
                        f"Qwen-Audio has no {message['role']!r} turns; use {', '.join(_ROLES)}",
                        place=f"conversation {index}",
                        index=index,
                    )
            for clip in clips:
                try:
                    self._lengths(clip)
                except AudioError as error:
                    raise error.at(f"conversation {index}", index) from None
        prompts: list[Prompt] = []
        for messages, clips in read:
            embeddings = self._hear(clips, remember)
            ids = self._prompt_ids(messages, [len(embedding) for embedding in embeddings])
            prompts.append(Prompt(messages, torch.tensor(ids), clips=tuple(embeddings)))
        return prompts

    def _prompt_ids(self, messages: list[Message], spans: list[int]) -> list[int]:
        """ChatML; ``spans`` are the tokens that each clip takes, its start and end included."""
        tokens: QwenTokens = self.tokenizer
        line = tokens.encode("\n")
        ids: list[int] = []
        heard = 0
        if _ROLES[messages[0]["role"]] != "system":
            messages = [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]}, *messages]
        for message in messages:
            ids += [tokens.im_start, *tokens.encode(_ROLES[message["role"]]), *line]
            text = ""
            for part in message["content"]:
                if part["type"] == "text":
                    text += part["text"]
                    continue
                ids += tokens.encode(f"{text}Audio {heard + 1}:")
                ids += [tokens.audio_start, *[tokens.audio_fill] * (spans[heard] - 2), tokens.audio_end]
                heard, text = heard + 1, "\n"
            ids += [*tokens.encode(text), tokens.im_end, *line]
        return [*ids, tokens.im_start, *tokens.encode("assistant"), *line]

    def _lengths(self, clip: Clip) -> tuple[int, int]:
        """What a clip is to the encoder: positions after its convolutions, tokens after pooling them in twos."""
        code = self._audio_code
        after = int(code.get_T_after_cnn(min(len(clip.samples), code.N_SAMPLES) // code.HOP_LENGTH))
        if after < 2:
            raise AudioError(f"{clip.name}: lasts {clip.seconds:.3f} s, too short to be heard; give at least 0.05 s")
        return after, after // 2

    @torch.no_grad()
    def _hear(self, clips: list[Clip], remember: bool) -> list[torch.Tensor]:
        """``[tokens, D]`` a clip, between the embeddings of its start and end; remembered ones are not made again."""
        digests = [clip.digest for clip in clips]
        missing = self.clip_cache.missing(digests)
        fresh = {digest: self._encode_clip(clips[digests.index(digest)]) for digest in missing}
        return self.clip_cache.take(digests, fresh, remember=remember)

    def _encode_clip(self, clip: Clip) -> torch.Tensor:
        code, ear = self._audio_code, self._ear
        after, tokens = self._lengths(clip)
        mel = code.log_mel_spectrogram(code.pad_or_trim(torch.from_numpy(clip.samples)))
        lengths = torch.tensor([[after, tokens]], device=ear.conv1.weight.device)
        embedding: torch.Tensor = ear.encode(mel[None].to(lengths.device), lengths, [tokens + 2])[0]
        return embedding

    @property
    def _ear(self) -> Any:
        inner: Any = unwrap(self.module)
        return inner.transformer.audio

    @property
    def _audio_code(self) -> Any:
        """The checkpoint's ``audio.py``."""
        return sys.modules[type(self._ear).remote.__module__]

    @torch.no_grad()
    def collate(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Model inputs for a batch, left-padded, on the model's device."""
        input_ids, mask = left_padded([prompt.input_ids for prompt in prompts], self.tokenizer.pad_token_id)
        inputs: dict[str, Any] = {"input_ids": input_ids.to(self.device), "attention_mask": mask.to(self.device)}
        clips = [clip for prompt in prompts for clip in prompt.clips]
        if clips:
            spans = [len(clip) for clip in clips]
            inputs["audio_info"] = {"input_audios": clips, "audio_span_tokens": spans, "input_audio_lengths": None}
        return inputs

    # ---- batches -------------------------------------------------------------------------------------------------

    @property
    def _indifferent_to_padding(self) -> int:
        """The length up to which attention does not depend on where in the batch's width a row begins."""
        config: Any = unwrap(self.module).config
        return int(config.seq_length) if config.use_logn_attn or config.use_dynamic_ntk else sys.maxsize

    def batches(self, prompts: list[Prompt], size: int) -> list[list[int]]:
        """As the base class's; beyond the trained length, rows of equal length only."""
        batches: list[list[int]] = []
        for batch in super().batches(prompts, size):
            lengths = [len(prompts[index].input_ids) for index in batch]
            if max(lengths) <= self._indifferent_to_padding:
                batches.append(batch)
                continue
            for length in sorted(set(lengths), reverse=True):
                batches.append([index for index, own in zip(batch, lengths, strict=True) if own == length])
        return batches

    @torch.no_grad()
    def generate_tokens(self, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
        """The answers' tokens; rows go one by one where an answer could outgrow ``_indifferent_to_padding``."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        longest = ids.shape[1] + int(options.get("max_new_tokens") or 0)
        if longest <= self._indifferent_to_padding or bool(mask.all()):
            return super().generate_tokens(inputs, **options)
        answers: list[torch.Tensor] = []
        for row, clips in enumerate(clips_of_rows(ids, unwrap(self.module).config)):
            kept = mask[row].bool()
            one = {"input_ids": ids[row, kept][None], "attention_mask": mask[row, kept][None]}
            if clips:
                one["audio_info"] = chosen_clips(inputs["audio_info"], clips)
            answers += super().generate_tokens(one, **options)
        return torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=self.tokenizer.pad_token_id)

    def generation_options(self, generation: dict[str, Any]) -> dict[str, Any]:
        """As the base class's; an answer ends where a turn does."""
        return {"eos_token_id": self.tokenizer.stop, **super().generation_options(generation)}
