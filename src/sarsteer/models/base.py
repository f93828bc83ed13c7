"""One interface to every audio-language model: conversations in, answers or activations out."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError
from torch import nn

from sarsteer.audio import Clip
from sarsteer.errors import AudioError, MessageError, ModelError
from sarsteer.messages import Conversation, InputLimits, Message, check_conversations, read_conversation
from sarsteer.modalities import registered
from sarsteer.models.batching import Inputs, left_padded, media_shapes, merge_rows
from sarsteer.models.clip_cache import ClipCache
from sarsteer.models.continuation import continue_prefix, endings, prefill, same_change
from sarsteer.models.control_tokens import can_sanitize, refuse_control_tokens
from sarsteer.models.families.registry import Family, family_of
from sarsteer.models.fingerprint import Fingerprint, fingerprint_of
from sarsteer.models.interface import DEFAULT_BATCH, LanguageModel
from sarsteer.models.layers import find_decoder_layers, generating_part, hidden_size, language_root, unwrap
from sarsteer.models.observer import observer_of


@dataclass(frozen=True)
class Prompt:
    """One checked conversation, tokenised, its clips brought to features or embeddings.

    Attributes:
        messages: the conversation, its media loaded.
        input_ids: ``[T]``.
        inputs: the processor's tensors of this row, where the model's own forward encodes its media.
        clips: one ``[tokens, D]`` embedding a clip, where the family encodes clips once.

    """

    messages: list[Message] = field(repr=False)
    input_ids: torch.Tensor = field(repr=False)
    inputs: Inputs = field(default_factory=dict, repr=False)
    clips: tuple[torch.Tensor, ...] = field(default=(), repr=False)


class AudioLanguageModel(LanguageModel):
    """A transformers model with its processor.

    Where the model's family needs code of its own, what is made is that family's subclass.

    Args:
        module: the transformers model; ``torch.compile`` and PEFT wrappers are looked through.
        processor: its processor, with a chat template; of a model that reads text only, its tokenizer.
        name: what messages and artifacts call it; ``config._name_or_path`` by default.
        revision: the revision that was loaded, for the record.
        layers: dotted path to the decoder layers, where the generic search fails.
        split_long_audio: cut a clip that is longer than the model's window into parts that follow one another,
            instead of refusing it.

    Raises:
        ModelError: the processor has no chat template, or the decoder layers are not found.

    """

    steerable = True

    def __new__(cls, module: nn.Module, *_args: Any, **_options: Any) -> AudioLanguageModel:
        """Make the family's own subclass where it has one."""
        wrapper = family_of(module).wrapper
        if cls is AudioLanguageModel and wrapper is not None:
            home, _, own = wrapper.partition(":")
            cls = getattr(importlib.import_module(home), own)
        return super().__new__(cls)

    def __init__(
        self,
        module: nn.Module,
        processor: Any,
        *,
        name: str | None = None,
        revision: str | None = None,
        layers: str | None = None,
        split_long_audio: bool = False,
    ) -> None:
        self.module: Any = module.eval()
        self.processor = processor
        self.split_long_audio = split_long_audio
        inner: Any = unwrap(module)
        self.family: Family = family_of(module)
        self.name = name or str(getattr(inner.config, "_name_or_path", "") or type(inner).__name__)
        self.revision = revision or getattr(inner.config, "_commit_hash", None)
        self.decoder_layers: list[nn.Module] = find_decoder_layers(module, layers or self.family.layers)
        self.hidden_size: int = hidden_size(module)
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.check_processor()
        self.tokenizer.padding_side = "left"  # "last position" is the last prompt token only on the right edge
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.clip_cache = ClipCache()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self.family.name}, {len(self.decoder_layers)} decoder layers, "
            f"D={self.hidden_size}, {self.dtype}, {self.device})"
        )

    exact_batches: bool = True
    """Batch rows of different media alone where the family's encoder lets padding leak. False is faster, and then an
    answer may depend, slightly, on the company it was computed in."""

    probe: Callable[[], list[torch.Tensor]] | None = None
    """How to prove steering where a family generates in a way of its own; see ``steering.proof``."""

    def check_processor(self) -> None:
        """Raise ``ModelError`` if the processor cannot write prompts."""
        if getattr(self.processor, "chat_template", None) is None:
            raise ModelError(
                f"{self.name}: its processor has no chat template; add chat_template.jinja beside its tokenizer"
            )

    @property
    def device(self) -> torch.device:
        """Where input tokens go."""
        device: torch.device = language_root(self.module).get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The residual stream's type."""
        dtype: torch.dtype = language_root(self.module).dtype
        return dtype

    @property
    def sampling_rate(self) -> int:
        """The rate in Hz at which the model hears."""
        return int(getattr(_audio_part(self.processor), "sampling_rate", None) or 16_000)

    @property
    def window_seconds(self) -> float | None:
        """The longest clip that is heard whole, in seconds: by the family, its processor, or its window."""
        chunk = getattr(_audio_part(self.processor), "chunk_length", None) if self.family.cuts_at_window else None
        limits = (self.family.window_seconds, getattr(self.processor, "max_audio_len", None), chunk)
        return min((float(limit) for limit in limits if limit), default=None)

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content parts that the model takes beside text, as its processor tells."""
        found = {"audio"} if _audio_part(self.processor) is not None else set()
        found |= {kind for kind in ("image", "video") if getattr(self.processor, f"{kind}_processor", None) is not None}
        takes = getattr(self.processor, "modalities", ())  # a processor of a kind of our registry names it there
        return frozenset(found | {modality.kind for modality in registered() if modality.kind in takes})

    @property
    def input_limits(self) -> InputLimits:
        """What conversations may hold."""
        return InputLimits(
            rate=self.sampling_rate,
            kinds=self.modalities,
            max_seconds=self.window_seconds,
            min_clips=self.family.min_clips,
            max_clips=self.family.max_clips,
            split=self.split_long_audio,
        )

    @cached_property
    def _can_sanitize(self) -> bool:
        return can_sanitize(self.processor)

    @property
    def family_name(self) -> str:
        """Name of the model's family."""
        return self.family.name

    @property
    def layer_count(self) -> int:
        """Number of decoder layers, L."""
        return len(self.decoder_layers)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What tells this model's weights from another's; stored in every artifact."""
        return fingerprint_of(self.module, self.decoder_layers)

    # ---- prompts -------------------------------------------------------------------------------------------------

    def prepare(self, conversations: Sequence[Conversation], *, remember: bool = True) -> list[Prompt]:
        """Check and tokenise, and where the family allows it encode the clips, each distinct one once.

        The result can be given to ``generate`` and ``last_token_activations`` instead of the conversations, any
        number of times: answering the same request under several settings then hears it once.

        Args:
            conversations: lists of messages.
            remember: keep the clips' embeddings for later calls, up to a limit of memory. A pass that hears each clip
                once does without.

        Raises:
            MessageError, AudioError: a conversation is malformed or a clip is bad; nothing was computed.

        """
        read = [self.read(conversation, index) for index, conversation in enumerate(conversations)]
        if self.family.encode_audio is None:
            return [self.build_prompt(messages, index) for index, (messages, _) in enumerate(read)]
        prompts: list[Prompt] = []
        for start in range(0, len(read), DEFAULT_BATCH):
            prompts += self._encode(read[start : start + DEFAULT_BATCH], remember)
        return prompts

    def read(self, conversation: Conversation, index: int) -> tuple[list[Message], list[Clip]]:
        """Check a conversation; return it with its media loaded, and its clips. Errors carry ``index``."""
        try:
            return read_conversation(conversation, self.input_limits)
        except (MessageError, AudioError) as error:
            raise error.at(f"conversation {index}", index) from None

    def build_prompt(self, messages: list[Message], index: int) -> Prompt:
        """A row processed alone; what its processor cannot take is told as the conversation's error."""
        try:
            made = self.process([messages])
        except MessageError as error:
            raise error.at(f"conversation {index}", index) from None
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, TemplateError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise MessageError(
                f"{self.name}'s processor refuses it ({first})", place=f"conversation {index}", index=index
            ) from error
        unused = getattr(self.processor, "unused_input_names", ())  # some processors return them all the same
        inputs = {name: t for name, t in made.items() if torch.is_tensor(t) and name not in unused}
        return Prompt(messages, inputs["input_ids"][0], inputs)

    @torch.no_grad()
    def _encode(self, read: list[tuple[list[Message], list[Clip]]], remember: bool) -> list[Prompt]:
        assert self.family.encode_audio is not None
        assert self.family.audio_token_id is not None
        clips = [clip for _, row in read for clip in row]
        inputs = self.process([messages for messages, _ in read], self._audio_options(clips))
        digests = [clip.digest for clip in clips]
        fresh = self.clip_cache.missing(digests)
        if fresh:
            chosen = torch.tensor([digests.index(digest) for digest in fresh])
            audio = {k: v[chosen] for k, v in inputs.items() if torch.is_tensor(v) and len(v) == len(clips)}
            audio.pop("input_ids", None), audio.pop("attention_mask", None)
            encoded = self.family.encode_audio(unwrap(self.module), audio)
        else:
            encoded = []
        embeddings = self.clip_cache.take(digests, dict(zip(fresh, encoded, strict=True)), remember=remember)
        placeholder = self.family.audio_token_id(unwrap(self.module))
        prompts, taken = [], 0
        for row, (messages, row_clips) in enumerate(read):
            ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
            mine = tuple(embeddings[taken : taken + len(row_clips)])
            taken += len(row_clips)
            if int((ids == placeholder).sum()) != sum(len(e) for e in mine):
                raise MessageError("the number of audio tokens in the prompt is not that of the clips; report this")
            prompts.append(Prompt(messages, ids, clips=mine))
        return prompts

    def _audio_options(self, clips: list[Clip]) -> dict[str, Any]:
        """Options that spare the processor what ``encode_audio`` does not use of these clips."""
        if self.family.audio_options is None or not clips:
            return {}
        return self.family.audio_options(self.processor, max(len(clip.samples) for clip in clips))

    def _tokenize(self, conversation: Conversation, index: int) -> torch.Tensor:
        """The token ids ``[T]`` of a prompt; nothing is encoded."""
        messages, clips = self.read(conversation, index)
        if self.family.encode_audio is None:
            return self.build_prompt(messages, index).input_ids
        ids: torch.Tensor = self.process([messages], self._audio_options(clips))["input_ids"][0]
        return ids

    def process(
        self, conversations: list[list[Message]], audio_options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The processor's tensors for a left-padded batch. Control tokens in the user's text stay plain text."""
        options: dict[str, Any] = dict(
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        if self._can_sanitize:
            options["sanitize_control_tokens"] = True
        else:
            refuse_control_tokens(conversations, self.tokenizer)
        if self.processor is self.tokenizer:
            return dict(self.processor.apply_chat_template(as_text(conversations), padding=True, **options))
        # under "text_kwargs": a bare padding would override how the family pads its audio, too
        extra: dict[str, Any] = {"text_kwargs": {"padding": True}, **_registered_values(conversations)}
        if audio_options:
            extra["audio_kwargs"] = dict(audio_options)
        return dict(self.processor.apply_chat_template(conversations, processor_kwargs=extra, **options))

    @torch.no_grad()
    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Model inputs for a batch, left-padded, on the model's device."""
        if self.family.encode_audio is None:
            inputs = merge_rows([prompt.inputs for prompt in prompts], self.tokenizer.pad_token_id)
            return {
                name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
                for name, tensor in inputs.items()
            }
        input_ids, mask = left_padded([prompt.input_ids for prompt in prompts], self.tokenizer.pad_token_id)
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
        check_conversations(conversations)
        ready: list[Prompt] = [c for c in conversations if isinstance(c, Prompt)]
        if len(ready) == len(conversations):
            return ready
        if ready:
            raise MessageError("give either conversations or prepared prompts, not both at once")
        return self.prepare([c for c in conversations if not isinstance(c, Prompt)])

    def batches(self, prompts: list[Prompt], size: int) -> list[list[int]]:
        """Indices in batches of about equal length, so that little is padding; of equal media where padding leaks."""
        if size < 1:
            raise ModelError(f"batch_size must be at least 1, not {size}")
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, prompt in enumerate(prompts):
            apart = media_shapes(prompt.inputs) if self.family.padding_leaks and self.exact_batches else ()
            groups.setdefault(apart, []).append(index)
        batches = []
        for group in groups.values():
            order = sorted(group, key=lambda index: len(prompts[index].input_ids), reverse=True)
            batches += [order[start : start + size] for start in range(0, len(order), size)]
        return batches

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
        generation = self.generation_options(generation)
        answers: dict[int, list[str]] = {}
        observer = observer_of(self.module)
        records: dict[int, list[Any]] = {}  # the observer's, of each prompt
        with self.observed():
            for batch in self.batches(prompts, batch_size):
                inputs = self.collate([prompts[i] for i in batch])
                if observer is not None:
                    observer.batch_started()
                tokens = self.generate_tokens(inputs, max_new_tokens=max_new_tokens, **generation)
                texts = self.decode(tokens)
                each = len(texts) // len(batch)
                for place, index in enumerate(batch):
                    answers[index] = texts[place * each : (place + 1) * each]
                if observer is not None:
                    records.update(zip(batch, observer.batch_finished(len(batch), each), strict=True))
            if observer is not None:
                observer.call_finished([record for index in sorted(records) for record in records[index]])
        return [text.strip() for index in range(len(prompts)) for text in answers[index]]

    def stream(
        self, conversation: Conversation | Prompt, max_new_tokens: int = 256, **generation: Any
    ) -> Iterator[str]:
        """Answer one conversation piece by piece, as whole words come; the pieces joined are the answer.

        An error in the middle is raised where the pieces are read, never swallowed.
        """
        from transformers import TextIteratorStreamer

        prompt = conversation if isinstance(conversation, Prompt) else self.prepare([conversation])[0]
        inputs = self.collate([prompt])
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = self.generation_options(generation)
        failure: list[BaseException] = []

        def run() -> None:
            try:
                with self.observed():
                    self.generate_tokens(inputs, max_new_tokens=max_new_tokens, streamer=streamer, **options)
            except BaseException as error:  # raised again in the reader's thread
                failure.append(error)
                streamer.end()

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            worker.join()
        if failure:
            raise failure[0]

    @property
    def steered(self) -> bool:
        """Whether steering is attached."""
        return observer_of(self.module) is not None

    def observed(self) -> AbstractContextManager[None]:
        """Held while one call answers; an observer that can follow only one call refuses a second one."""
        observer = observer_of(self.module)
        return nullcontext() if observer is None else observer.answering()

    def generation_options(self, generation: dict[str, Any]) -> dict[str, Any]:
        """The options of ``generate_tokens`` for a user's generation options."""
        if not generation.get("do_sample"):
            # The checkpoint's sampling settings mean nothing to greedy decoding, and transformers warns of them.
            generation = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, **generation}
        return {"pad_token_id": self.tokenizer.pad_token_id, **generation}

    @torch.no_grad()
    def generate_tokens(self, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
        """The answers' tokens ``[B, new]``, without the prompt."""
        out = generating_part(self.module).generate(**inputs, **options)
        tokens: torch.Tensor = out if torch.is_tensor(out) else out.sequences
        return tokens[:, inputs["input_ids"].shape[1] :]

    def decode(self, tokens: torch.Tensor) -> list[str]:
        """The text of each row of tokens ``[B, new]``."""
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    # ---- activations ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def last_token_activations(
        self, conversations: Sequence[Conversation] | Sequence[Prompt], *, batch_size: int = DEFAULT_BATCH
    ) -> torch.Tensor:
        """The output of every decoder layer at the last prompt token: ``[B, L, D]``, float32, on the CPU.

        The residual stream after each layer, before any final norm; no ``lm_head`` is run. With steering attached,
        what is returned is steered.
        """
        from sarsteer.models.activations import LastTokenCapture

        prompts = self._prompts(conversations)
        out = torch.empty(len(prompts), len(self.decoder_layers), self.hidden_size)
        for batch in self.batches(prompts, batch_size):
            with LastTokenCapture(self.decoder_layers) as capture:
                self.forward_base(self.collate([prompts[i] for i in batch]))
            out[batch] = capture.activations()
        return out

    @torch.no_grad()
    def paired_activations(
        self, plain: Sequence[Conversation], prompted: Sequence[Conversation]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Last-token activations of two arms, each ``[B, L, D]``, in one batch.

        Where the family allows it, and the two conversations of each row differ in their last text only, and in the
        same way, the prompted arm continues the plain arm's key-value cache.
        """
        from sarsteer.models.activations import LastTokenCapture

        prompts = self.prepare(plain, remember=False)
        if self.family.prefix_reuse and same_change(plain, prompted):
            ending, prompted_ending = endings(prompts[0].input_ids, self._tokenize(prompted[0], 0))
            if all(torch.equal(prompt.input_ids[-len(ending) :], ending) for prompt in prompts):
                with LastTokenCapture(self.decoder_layers) as capture:
                    prefix = prefill(self, self.collate(prompts))
                    activations = capture.activations()
                    prefix.drop(len(ending))
                    continue_prefix(self, prefix, prompted_ending)
                    return activations, capture.activations()
        size = max(1, len(prompts))
        activations = self.last_token_activations(prompts, batch_size=size)
        prompted_prompts = self.prepare(prompted, remember=False)
        return activations, self.last_token_activations(prompted_prompts, batch_size=size)

    def forward_base(self, inputs: dict[str, torch.Tensor], **more: Any) -> Any:
        """A forward without ``lm_head``; positions count from each row's first real token, as in ``generate``."""
        mask = inputs["attention_mask"]
        inputs = {k: v for k, v in inputs.items() if k != "input_ids" or "inputs_embeds" not in inputs}
        if self.family.encode_audio is not None and "position_ids" not in more:
            more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        more.setdefault("use_cache", False)
        return language_root(self.module).base_model(**inputs, **more)


def as_text(conversations: list[list[Message]]) -> list[list[Message]]:
    """Conversations whose contents are strings, as the templates of models that read text only take them."""
    return [
        [{**message, "content": "".join(part["text"] for part in message["content"])} for message in conversation]
        for conversation in conversations
    ]


def _audio_part(processor: Any) -> Any:
    """The part of a processor that turns sound into features; its name differs between families."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def _registered_values(conversations: list[list[Message]]) -> dict[str, list[list[Any]]]:
    """What the processor's call is given for modalities of the registry: one list a conversation."""
    parts = [[part for message in row for part in message["content"]] for row in conversations]
    values: dict[str, list[list[Any]]] = {}
    for modality in registered():
        found = [[part[modality.kind] for part in row if part["type"] == modality.kind] for row in parts]
        if any(found):
            values[str(modality.processor_key)] = found
    return values
