"""Qwen-Audio (v1): exists only as remote code, written for transformers 4.32.

``compat`` lets that code, unmodified, run on transformers 5. Configuration, model, audio encoder and log-mel
spectrogram (Whisper's, 80 bins, 30 s) are the checkpoint's. Ours are:

- the tokens (``tokens``);
- clips, which are passed as samples and not as paths that its code decodes with ffmpeg;
- the prompts: ChatML, with "You are a helpful assistant." if the conversation has no system message. A clip is
  ``Audio 1:<audio>…</audio>`` and a line break, numbered through the conversation.

Limits:

- Tested on a stand-in with the same structure (``tests/support/standins/qwen_audio``), not on the published weights.
- Needs ``trust_remote_code=True``, ``tiktoken`` and ``einops`` (``pip install 'sarsteer[qwen-audio]'``).
- Attention is PyTorch's (``use_flash_attn`` is switched off); the key-value cache is dynamic and not quantized.
- Beyond ``config.seq_length`` tokens, its log-n attention depends on the index of a position, padding included. Rows
  of different lengths then run one after the other, so that answers are the same as in a batch of one.
- Clips of one conversation are encoded one by one; the published code encodes them together, which changes the shorter
  ones slightly.
- ``Qwen/Qwen-Audio`` is not a chat model: it was trained on task tags. It gets ChatML too, and its refusals mean
  little.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from sarsteer.audio import Clip
from sarsteer.errors import AudioError, MessageError, ModelError
from sarsteer.messages import Conversation, Message
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.batching import left_padded
from sarsteer.models.families.qwen_audio.compat import chosen_clips, clips_of_rows
from sarsteer.models.families.qwen_audio.tokens import QwenTokens
from sarsteer.models.layers import unwrap
from sarsteer.models.prompt import Prompt

SYSTEM = "You are a helpful assistant."
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class QwenAudio(AudioLanguageModel):
    """Qwen-Audio; only ``load_model`` creates it."""

    def check_processor(self) -> None:
        """Raise ``ModelError`` unless ``load_model`` loaded the model."""
        inner: Any = unwrap(self.module)
        if not isinstance(self.processor, QwenTokens) or not hasattr(type(inner), "remote"):
            raise ModelError(f"{self.name}: its code does not run on transformers 5; load it with sarsteer.load_model")

    @property
    def sampling_rate(self) -> int:
        """The sampling rate of the model's audio, in Hz."""
        return 16_000

    @property
    def modalities(self) -> frozenset[str]:
        """Audio, besides text."""
        return frozenset({"audio"})

    # ---- prompts -------------------------------------------------------------------------------------------------

    def prepare(self, conversations: Sequence[Conversation], *, remember: bool = True) -> list[Prompt]:
        """Check and tokenize conversations and encode their clips; see ``AudioLanguageModel.prepare``."""
        rows = [self.read(conversation, index) for index, conversation in enumerate(conversations)]
        for index, (messages, clips) in enumerate(rows):
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
        for messages, clips in rows:
            embeddings = self._embeddings(clips, remember)
            ids = self._prompt_ids(messages, [len(embedding) for embedding in embeddings])
            prompts.append(Prompt(messages, torch.tensor(ids), clips=tuple(embeddings)))
        return prompts

    def _prompt_ids(self, messages: list[Message], spans: list[int]) -> list[int]:
        """ChatML; ``spans`` are the numbers of tokens of each clip, with its start and end."""
        tokens: QwenTokens = self.tokenizer
        line = tokens.encode("\n")
        ids: list[int] = []
        clip = 0
        if _ROLES[messages[0]["role"]] != "system":
            messages = [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]}, *messages]
        for message in messages:
            ids += [tokens.im_start, *tokens.encode(_ROLES[message["role"]]), *line]
            text = ""
            for part in message["content"]:
                if part["type"] == "text":
                    text += part["text"]
                    continue
                ids += tokens.encode(f"{text}Audio {clip + 1}:")
                ids += [tokens.audio_start, *[tokens.audio_fill] * (spans[clip] - 2), tokens.audio_end]
                clip, text = clip + 1, "\n"
            ids += [*tokens.encode(text), tokens.im_end, *line]
        return [*ids, tokens.im_start, *tokens.encode("assistant"), *line]

    def _lengths(self, clip: Clip) -> tuple[int, int]:
        """A clip's positions after the encoder's convolutions, and its tokens after pooling pairs of them."""
        code = self._audio_code
        after = int(code.get_T_after_cnn(min(len(clip.samples), code.N_SAMPLES) // code.HOP_LENGTH))
        if after < 2:
            raise AudioError(f"{clip.name}: lasts {clip.seconds:.3f} s, too short for the encoder; use at least 0.05 s")
        return after, after // 2

    @torch.no_grad()
    def _embeddings(self, clips: list[Clip], remember: bool) -> list[torch.Tensor]:
        """``[tokens, D]`` per clip, with the embeddings of its start and end; from the cache if they are in it."""
        digests = [clip.digest for clip in clips]
        missing = self.clip_cache.missing(digests)
        fresh = {digest: self._encode_clip(clips[digests.index(digest)]) for digest in missing}
        return self.clip_cache.take(digests, fresh, remember=remember)

    def _encode_clip(self, clip: Clip) -> torch.Tensor:
        code, encoder = self._audio_code, self._encoder
        after, tokens = self._lengths(clip)
        mel = code.log_mel_spectrogram(code.pad_or_trim(torch.from_numpy(clip.samples)))
        lengths = torch.tensor([[after, tokens]], device=encoder.conv1.weight.device)
        embedding: torch.Tensor = encoder.encode(mel[None].to(lengths.device), lengths, [tokens + 2])[0]
        return embedding

    @property
    def _encoder(self) -> Any:
        inner: Any = unwrap(self.module)
        return inner.transformer.audio

    @property
    def _audio_code(self) -> Any:
        """The checkpoint's ``audio.py``."""
        return sys.modules[type(self._encoder).remote.__module__]

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
    def _padding_free_length(self) -> int:
        """The length up to which attention does not depend on the padding of a row."""
        config: Any = unwrap(self.module).config
        return int(config.seq_length) if config.use_logn_attn or config.use_dynamic_ntk else sys.maxsize

    def batches(self, prompts: list[Prompt], size: int) -> list[list[int]]:
        """Like the base class; beyond the trained length, only rows of equal length share a batch."""
        batches: list[list[int]] = []
        for batch in super().batches(prompts, size):
            lengths = [len(prompts[index].input_ids) for index in batch]
            if max(lengths) <= self._padding_free_length:
                batches.append(batch)
                continue
            for length in sorted(set(lengths), reverse=True):
                batches.append([index for index, n in zip(batch, lengths, strict=True) if n == length])
        return batches

    @torch.no_grad()
    def generate_tokens(self, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
        """The answers' tokens; rows run one by one if an answer could exceed ``_padding_free_length``."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        longest = ids.shape[1] + int(options.get("max_new_tokens") or 0)
        if longest <= self._padding_free_length or bool(mask.all()):
            return super().generate_tokens(inputs, **options)
        answers: list[torch.Tensor] = []
        for row, clips in enumerate(clips_of_rows(ids, unwrap(self.module).config)):
            tokens = mask[row].bool()
            unpadded = {"input_ids": ids[row, tokens][None], "attention_mask": mask[row, tokens][None]}
            if clips:
                unpadded["audio_info"] = chosen_clips(inputs["audio_info"], clips)
            answers += super().generate_tokens(unpadded, **options)
        return torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=self.tokenizer.pad_token_id)

    def generation_options(self, generation: dict[str, Any]) -> dict[str, Any]:
        """Like the base class; an answer ends at the end of a turn."""
        return {"eos_token_id": self.tokenizer.stop, **super().generation_options(generation)}
