"""One interface to every audio-language model: conversations in, answers or activations out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from sarsteer.audio import Clip
from sarsteer.errors import MessageError, ModelError
from sarsteer.messages import Conversation, Message, read_conversation
from sarsteer.models.clip_cache import ClipCache
from sarsteer.models.families import Family, family_of
from sarsteer.models.fingerprint import Fingerprint, fingerprint_of
from sarsteer.models.layers import find_decoder_layers, hidden_size, unwrap

DEFAULT_BATCH = 16


@dataclass(frozen=True)
class Prompt:
    """One checked conversation. Where the family allows it, tokenised already, its clips encoded.

    Attributes:
        messages: the conversation, its clips loaded at the model's rate.
        input_ids: ``[T]``, or None where the processor must see whole batches.
        clips: one ``[tokens, D]`` embedding a clip.

    """

    messages: list[Message] = field(repr=False)
    input_ids: torch.Tensor | None = field(default=None, repr=False)
    clips: tuple[torch.Tensor, ...] = field(default=(), repr=False)


class AudioLanguageModel:
    """A transformers model with its processor.

    Args:
        module: the transformers model; ``torch.compile`` and PEFT wrappers are looked through.
        processor: its processor, with a chat template.
        name: what messages and artifacts call it; ``config._name_or_path`` by default.
        revision: the revision that was loaded, for the record.
        layers: dotted path to the decoder layers, where the generic search fails.

    Raises:
        ModelError: the processor has no chat template, or the decoder layers are not found.

    """

    def __init__(
        self,
        module: nn.Module,
        processor: Any,
        *,
        name: str | None = None,
        revision: str | None = None,
        layers: str | None = None,
    ) -> None:
        self.module: Any = module.eval()
        self.processor = processor
        inner: Any = unwrap(module)
        self.family: Family = family_of(module)
        self.name = name or str(getattr(inner.config, "_name_or_path", "") or type(inner).__name__)
        self.revision = revision or getattr(inner.config, "_commit_hash", None)
        self.decoder_layers: list[nn.Module] = find_decoder_layers(module, layers or self.family.layers)
        self.hidden_size: int = hidden_size(module)
        if getattr(processor, "chat_template", None) is None:
            raise ModelError(
                f"{self.name}: its processor has no chat template; add chat_template.jinja beside its tokenizer"
            )
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.tokenizer.padding_side = "left"  # "last position" is the last prompt token only on the right edge
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._clips = ClipCache()

    def __repr__(self) -> str:
        return (
            f"AudioLanguageModel({self.name!r}, {self.family.name}, {len(self.decoder_layers)} decoder layers, "
            f"D={self.hidden_size}, {self.dtype}, {self.device})"
        )

    @property
    def device(self) -> torch.device:
        """Where input tokens go."""
        device: torch.device = self.module.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The residual stream's type."""
        dtype: torch.dtype = self.module.dtype
        return dtype

    @property
    def sampling_rate(self) -> int:
        """The rate in Hz at which the model hears."""
        extractor = getattr(self.processor, "feature_extractor", None)
        return int(getattr(extractor, "sampling_rate", 16_000))

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What tells this model's weights from another's; stored in every artifact."""
        return fingerprint_of(self.module, self.decoder_layers)

    # ---- prompts -------------------------------------------------------------------------------------------------

    def prepare(self, conversations: Sequence[Conversation], *, remember: bool = True) -> list[Prompt]:
        """Check, tokenise and, where the family allows it, encode the clips, each distinct one once.

        The result can be given to ``generate`` and ``last_token_activations`` instead of the conversations, any
        number of times: answering the same request under several settings then hears it once.

        Args:
            conversations: lists of messages.
            remember: keep the clips' embeddings for later calls, up to a limit of memory. A pass that hears each clip
                once does without.

        Raises:
            MessageError, AudioError: a conversation is malformed or a clip is bad; nothing was computed.

        """
        read = [self._read(conversation, index) for index, conversation in enumerate(conversations)]
        if self.family.encode_audio is None:
            return [Prompt(messages) for messages, _ in read]
        prompts: list[Prompt] = []
        for start in range(0, len(read), DEFAULT_BATCH):
            prompts += self._encode(read[start : start + DEFAULT_BATCH], remember)
        return prompts

    def _read(self, conversation: Conversation, index: int) -> tuple[list[Message], list[Clip]]:
        try:
            return read_conversation(
                conversation,
                rate=self.sampling_rate,
                max_seconds=self.family.window_seconds,
                max_clips=self.family.max_clips,
            )
        except MessageError as error:
            raise MessageError(f"conversation {index}: {error}") from None

    @torch.no_grad()
    def _encode(self, read: list[tuple[list[Message], list[Clip]]], remember: bool) -> list[Prompt]:
        assert self.family.encode_audio is not None
        assert self.family.audio_token_id is not None
        inputs = self._process([messages for messages, _ in read])
        clips = [clip for _, row in read for clip in row]
        digests = [clip.digest for clip in clips]
        fresh = self._clips.missing(digests)
        if fresh:
            chosen = torch.tensor([digests.index(digest) for digest in fresh])
            audio = {k: v[chosen] for k, v in inputs.items() if torch.is_tensor(v) and len(v) == len(clips)}
            audio.pop("input_ids", None), audio.pop("attention_mask", None)
            encoded = self.family.encode_audio(unwrap(self.module), audio)
        else:
            encoded = []
        embeddings = self._clips.take(digests, dict(zip(fresh, encoded, strict=True)), remember=remember)
        placeholder = self.family.audio_token_id(unwrap(self.module))
        prompts, taken = [], 0
        for row, (messages, row_clips) in enumerate(read):
            ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
            mine = tuple(embeddings[taken : taken + len(row_clips)])
            taken += len(row_clips)
            if int((ids == placeholder).sum()) != sum(len(e) for e in mine):
                raise MessageError("the number of audio tokens in the prompt is not that of the clips; report this")
            prompts.append(Prompt(messages, ids, mine))
        return prompts

    def _process(self, conversations: list[list[Message]]) -> dict[str, Any]:
        """The processor's tensors for a left-padded batch. Control tokens in the user's text stay plain text."""
        return dict(
            self.processor.apply_chat_template(
                conversations,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                processor_kwargs={"padding": True},
            )
        )

    @torch.no_grad()
    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Model inputs for a batch, left-padded, on the model's device."""
        rows = [prompt.input_ids for prompt in prompts]
        if any(row is None for row in rows):
            inputs = self._process([prompt.messages for prompt in prompts])
            return {
                k: v.to(self.device, self.dtype) if v.is_floating_point() else v.to(self.device)
                for k, v in inputs.items()
                if torch.is_tensor(v)
            }
        ids = [row for row in rows if row is not None]
        longest = max(len(row) for row in ids)
        input_ids = torch.full((len(ids), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(ids), longest), dtype=torch.long)
        for index, row in enumerate(ids):
            input_ids[index, longest - len(row) :] = row
            mask[index, longest - len(row) :] = 1
        input_ids, mask = input_ids.to(self.device), mask.to(self.device)
        embeds = self.module.get_input_embeddings()(input_ids)
        clips = [clip for prompt in prompts for clip in prompt.clips]
        if clips:
            assert self.family.audio_token_id is not None
            # pad and audio placeholder may share an id: only real positions are replaced
            where = (input_ids == self.family.audio_token_id(unwrap(self.module))) & mask.bool()
            embeds = embeds.masked_scatter(where[..., None], torch.cat(clips).to(embeds.device, embeds.dtype))
        return {"input_ids": input_ids, "attention_mask": mask, "inputs_embeds": embeds}

    def _prompts(self, conversations: Sequence[Conversation] | Sequence[Prompt]) -> list[Prompt]:
        if isinstance(conversations, (str, bytes, dict)) or not isinstance(conversations, Sequence):
            raise MessageError("give a list of conversations, each a list of messages")
        ready: list[Prompt] = [c for c in conversations if isinstance(c, Prompt)]
        if len(ready) == len(conversations):
            return ready
        if ready:
            raise MessageError("give either conversations or prepared prompts, not both at once")
        if any(isinstance(c, dict) for c in conversations):
            raise MessageError("give a list of conversations, each a list of messages; wrap your messages in a list")
        return self.prepare([c for c in conversations if not isinstance(c, Prompt)])

    def _batches(self, prompts: list[Prompt], size: int) -> list[list[int]]:
        """Indices in batches of about equal length, so that little is padding."""
        if size < 1:
            raise ModelError(f"batch_size must be at least 1, not {size}")

        def length(index: int) -> int:
            ids = prompts[index].input_ids
            return 0 if ids is None else len(ids)

        order = sorted(range(len(prompts)), key=length, reverse=True)
        return [order[start : start + size] for start in range(0, len(order), size)]

    # ---- answers -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        conversations: Sequence[Conversation] | Sequence[Prompt],
        max_new_tokens: int = 256,
        *,
        batch_size: int = DEFAULT_BATCH,
        **generation: Any,
    ) -> list[str]:
        """Answer each conversation, greedily unless ``do_sample=True``.

        Args:
            conversations: lists of messages, or what ``prepare`` made of them.
            max_new_tokens: the longest answer, in tokens.
            batch_size: conversations a forward.
            generation: options of transformers' ``generate``.

        Returns:
            The answers, in the order of the conversations (``num_return_sequences`` in a row for each).

        """
        prompts = self._prompts(conversations)
        if not generation.get("do_sample"):
            # The checkpoint's sampling settings mean nothing to greedy decoding, and transformers warns of them.
            generation = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, **generation}
        generation.setdefault("pad_token_id", self.tokenizer.pad_token_id)
        answers: dict[int, list[str]] = {}
        target: Any = getattr(unwrap(self.module), "thinker", self.module)
        for batch in self._batches(prompts, batch_size):
            inputs = self.collate([prompts[i] for i in batch])
            out = target.generate(**inputs, max_new_tokens=max_new_tokens, **generation)
            tokens = out if torch.is_tensor(out) else out.sequences
            texts = self.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            each = len(texts) // len(batch)
            for place, index in enumerate(batch):
                answers[index] = texts[place * each : (place + 1) * each]
        return [text.strip() for index in range(len(prompts)) for text in answers[index]]

    # ---- activations ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def last_token_activations(
        self, conversations: Sequence[Conversation] | Sequence[Prompt], *, batch_size: int = DEFAULT_BATCH
    ) -> torch.Tensor:
        """The output of every decoder layer at the last prompt token: ``[B, L, D]``, float32, on the CPU.

        The residual stream after each layer, before any final norm; no ``lm_head`` is run. With steering attached,
        what is returned is steered.
        """
        from sarsteer.steering.activations import LastTokenCapture

        prompts = self._prompts(conversations)
        out = torch.empty(len(prompts), len(self.decoder_layers), self.hidden_size)
        for batch in self._batches(prompts, batch_size):
            with LastTokenCapture(self.decoder_layers) as capture:
                self.forward_base(self.collate([prompts[i] for i in batch]))
            out[batch] = capture.activations()
        return out

    def forward_base(self, inputs: dict[str, torch.Tensor], **more: Any) -> Any:
        """A forward without ``lm_head``; positions count from each row's first real token, as in ``generate``."""
        mask = inputs["attention_mask"]
        inputs = {k: v for k, v in inputs.items() if k != "input_ids" or "inputs_embeds" not in inputs}
        if self.family.encode_audio is not None and "position_ids" not in more:
            more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        more.setdefault("use_cache", False)
        inner: Any = unwrap(self.module)
        return inner.base_model(**inputs, **more)
