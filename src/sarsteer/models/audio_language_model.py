"""``AudioLanguageModel``: one interface to every audio-language model that transformers runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError
from torch import nn

from sarsteer.audio import Clip
from sarsteer.errors import AudioError, MessageError, ModelError
from sarsteer.messages import Conversation, InputLimits, Message, check_conversations, read_conversation
from sarsteer.models import processor as processors
from sarsteer.models.activations import LastTokenCapture
from sarsteer.models.batching import left_padded, media_shapes, media_tensors, merge_rows, token_positions
from sarsteer.models.clip_cache import ClipCache
from sarsteer.models.clip_encoding import decoder_inputs, placeholder_id
from sarsteer.models.continuation import continue_prefix, endings, prefill, same_change
from sarsteer.models.family import Family, family_of
from sarsteer.models.fingerprint import Fingerprint, fingerprint_of
from sarsteer.models.interface import DEFAULT_BATCH, LanguageModel
from sarsteer.models.layers import find_decoder_layers, generating_part, hidden_size, language_root, unwrap
from sarsteer.models.observer import observer_of
from sarsteer.models.prefix_cache import empty_cache, state_refusal
from sarsteer.models.prompt import Prompt
from sarsteer.models.transcribers import refuse_transcriber


class AudioLanguageModel(LanguageModel):
    """A transformers model with its processor.

    If the model's family has a subclass, the object is of that class. Such a subclass overrides the methods that are
    marked as hooks.

    Args:
        module: the transformers model; may be wrapped by ``torch.compile`` or PEFT.
        processor: its processor, with a chat template; the tokenizer of a text-only model.
        name: what messages and artifacts call the model; ``config._name_or_path`` by default.
        revision: the revision that was loaded, for the record.
        layers: dotted path to the decoder layers, if the generic search fails.
        split_long_audio: split a clip that is longer than the model's window into consecutive parts, instead of
            refusing it.

    Attributes:
        exact_batches: whether rows with media of different shapes run in separate batches if the family's encoder lets
            padding leak. False is faster; an answer may then depend slightly on the other rows of its batch.
        probe: returns the logits of a prefill and of a decode step, for the proof of steering, in families with their
            own decoding loop; None for ``generate`` of transformers.
        origin: what the checkpoint says that it was made from, for the record.

    Raises:
        ModelError: the processor has no chat template, the decoder layers are not found, or the model only transcribes.

    """

    steerable = True
    exact_batches: bool = True
    probe: Callable[[], list[torch.Tensor]] | None = None
    origin: dict[str, Any] | None = None

    def __new__(cls, module: nn.Module, *_args: Any, **_options: Any) -> AudioLanguageModel:
        """Create an object of the family's subclass, if it has one."""
        model_class = family_of(module).model_class
        return super().__new__(cls if cls is not AudioLanguageModel or model_class is None else model_class)

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
        refuse_transcriber(self.name, type(inner).__name__)
        self.revision = revision or getattr(inner.config, "_commit_hash", None)
        self.decoder_layers: list[nn.Module] = find_decoder_layers(module, layers or self.family.layers)
        self.hidden_size: int = hidden_size(module)
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.check_processor()
        self.tokenizer.padding_side = "left"  # the last position of a batch must be each row's last prompt token
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.clip_cache = ClipCache()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self.family.name}, {len(self.decoder_layers)} decoder layers, "
            f"D={self.hidden_size}, {self.dtype}, {self.device})"
        )

    def check_processor(self) -> None:
        """Raise ``ModelError`` if the processor cannot write prompts. A hook."""
        if getattr(self.processor, "chat_template", None) is None:
            raise ModelError(
                f"{self.name}: its processor has no chat template; add chat_template.jinja next to its tokenizer"
            )

    # ---- properties ----------------------------------------------------------------------------------------------

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
        """The sampling rate of the model's audio, in Hz."""
        return processors.sampling_rate(self.processor)

    @property
    def window_seconds(self) -> float | None:
        """The longest clip that the model takes whole, in seconds: the least limit of its family and processor."""
        window = processors.audio_window(self.processor) if self.family.cuts_at_window else None
        limits = (self.family.window_seconds, getattr(self.processor, "max_audio_len", None), window)
        return min((float(limit) for limit in limits if limit), default=None)

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content parts besides text that the model takes."""
        return processors.modalities(self.processor)

    @property
    def input_limits(self) -> InputLimits:
        """What conversations may contain."""
        return InputLimits(
            rate=self.sampling_rate,
            kinds=self.modalities,
            max_seconds=self.window_seconds,
            min_clips=self.family.min_clips,
            max_clips=self.family.max_clips,
            split=self.split_long_audio,
        )

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
        """Identifies the weights; stored in every artifact."""
        return fingerprint_of(self.module, self.decoder_layers)

    @property
    def prefix_refusal(self) -> str | None:
        """Why what prompts share cannot be computed once, as a clause; None if it can. A hook."""
        if not self.family.prefix_reuse:
            return state_refusal(self.module) or f"the cache of {self.family.name} is not known to be continued exactly"
        return state_refusal(self.module)

    def shares_prefixes(self, prompts: Sequence[Prompt] = ()) -> bool:
        """Whether the model's cache can be cropped and continued after these prompts.

        Images and video have positions of their own in some families, so their prompts are run whole.
        """
        return self.prefix_refusal is None and not any(media_tensors(prompt.inputs) for prompt in prompts)

    def empty_cache(self) -> Any:
        """A cache for a forward that is continued; None if the model's own will do."""
        return empty_cache(self.module)

    @property
    def steered(self) -> bool:
        """Whether steering is attached."""
        return observer_of(self.module) is not None

    # ---- prompts -------------------------------------------------------------------------------------------------

    def prepare(self, conversations: Sequence[Conversation], *, remember: bool = True) -> list[Prompt]:
        """Check and tokenize conversations and, if the family allows it, encode each distinct clip once.

        ``generate`` and ``last_token_activations`` take the prompts instead of the conversations, any number of times:
        answering one request under several settings then encodes its clips once.

        Args:
            conversations: lists of messages.
            remember: cache the clips' embeddings for later calls, up to a memory limit; pass False if each clip is
                used once.

        Raises:
            MessageError, AudioError: a conversation is malformed or a clip is bad; nothing was encoded. The error's
                ``index`` is the conversation's.

        """
        rows = [self.read(conversation, index) for index, conversation in enumerate(conversations)]
        if self.family.encode_audio is None:
            return [self._prompt(messages, clips, index, remember) for index, (messages, clips) in enumerate(rows)]
        prompts: list[Prompt] = []
        for start in range(0, len(rows), DEFAULT_BATCH):
            prompts += self._encode(rows[start : start + DEFAULT_BATCH], start, remember)
        return prompts

    def read(self, conversation: Conversation, index: int) -> tuple[list[Message], list[Clip]]:
        """Check a conversation; return it with its media loaded, and its clips. Errors carry ``index``."""
        try:
            return read_conversation(conversation, self.input_limits)
        except (MessageError, AudioError) as error:
            raise error.at(f"conversation {index}", index) from None

    def build_prompt(self, messages: list[Message], index: int) -> Prompt:
        """The prompt of one conversation, for families whose forward encodes media. A hook.

        Raises:
            MessageError: the processor refuses it; the error carries ``index``.

        """
        place = f"conversation {index}"
        try:
            tensors = self.process([messages])
        except MessageError as error:
            raise error.at(place, index) from None
        except torch.OutOfMemoryError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, TemplateError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise MessageError(f"{self.name}'s processor refuses it ({reason})", place=place, index=index) from error
        unused = getattr(self.processor, "unused_input_names", ())  # some processors return them nevertheless
        inputs = {name: tensor for name, tensor in tensors.items() if torch.is_tensor(tensor) and name not in unused}
        return Prompt(messages, inputs["input_ids"][0], inputs)

    @torch.no_grad()
    def _prompt(self, messages: list[Message], clips: list[Clip], index: int, remember: bool) -> Prompt:
        """A prompt with an embedding for each clip, or with the processor's tensors if it has other media."""
        prompt = self.build_prompt(messages, index)
        others = any(part["type"] not in ("text", "audio") for message in messages for part in message["content"])
        if others or not self.family.encode_once:
            return prompt
        digests = [clip.digest for clip in clips]
        fresh: dict[str, torch.Tensor] = {}
        for digest in self.clip_cache.missing(digests):
            inputs = prompt.inputs
            if len(clips) > 1:  # a processor pads the clips of a conversation to the longest one
                audio = [part for message in messages for part in message["content"] if part["type"] == "audio"]
                alone: list[Message] = [{"role": "user", "content": [audio[digests.index(digest)]]}]
                inputs = self.build_prompt(alone, index).inputs
            fresh[digest] = self.encode_clip(self._to_device(inputs))
        embeddings = tuple(self.clip_cache.take(digests, fresh, remember=remember))
        self._check_placeholders(prompt.input_ids, embeddings, index)
        return Prompt(messages, prompt.input_ids, clips=embeddings)

    def encode_clip(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The embedding ``[tokens, D]`` of the one clip of a conversation, as the decoder takes it. A hook.

        Args:
            inputs: the processor's tensors of the conversation, on the model's device.

        """
        embeddings: torch.Tensor = decoder_inputs(self.module, inputs)["inputs_embeds"]
        return embeddings[inputs["input_ids"].to(embeddings.device) == self.audio_token_id]

    def embed(self, input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The decoder's inputs for tokens ``[B, T]``: ``inputs_embeds`` ``[B, T, D]``, and others it needs. A hook."""
        return {"inputs_embeds": language_root(self.module).get_input_embeddings()(input_ids)}

    @cached_property
    def audio_token_id(self) -> int:
        """The id of the placeholders of audio."""
        known = self.family.audio_token_id
        return placeholder_id(self.module) if known is None else known(unwrap(self.module))

    def _check_placeholders(self, input_ids: torch.Tensor, clips: Sequence[torch.Tensor], index: int) -> None:
        if not clips:
            return
        placeholders, tokens = int((input_ids == self.audio_token_id).sum()), sum(map(len, clips))
        if placeholders != tokens:
            raise MessageError(
                f"its prompt has {placeholders} audio placeholders for {tokens} audio tokens; please report this",
                place=f"conversation {index}",
                index=index,
            )

    @torch.no_grad()
    def _encode(self, rows: list[tuple[list[Message], list[Clip]]], start: int, remember: bool) -> list[Prompt]:
        """Prompts with encoded clips; ``start`` is the index of the first conversation."""
        assert self.family.encode_audio is not None
        clips = [clip for _, row in rows for clip in row]
        try:
            inputs = self.process([messages for messages, _ in rows], self._audio_options(clips))
        except MessageError as error:
            if error.index is None:
                raise
            index = start + error.index
            raise error.at(f"conversation {index}", index) from None
        digests = [clip.digest for clip in clips]
        missing = self.clip_cache.missing(digests)
        encoded = []
        if missing:
            chosen = torch.tensor([digests.index(digest) for digest in missing])
            audio = {k: v[chosen] for k, v in inputs.items() if torch.is_tensor(v) and len(v) == len(clips)}
            audio.pop("input_ids", None), audio.pop("attention_mask", None)
            encoded = self.family.encode_audio(unwrap(self.module), audio)
        embeddings = self.clip_cache.take(digests, dict(zip(missing, encoded, strict=True)), remember=remember)
        prompts: list[Prompt] = []
        for row, (messages, row_clips) in enumerate(rows):
            ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
            row_embeddings = tuple(embeddings[: len(row_clips)])
            del embeddings[: len(row_clips)]
            self._check_placeholders(ids, row_embeddings, start + row)
            prompts.append(Prompt(messages, ids, clips=row_embeddings))
        return prompts

    def _audio_options(self, clips: list[Clip]) -> dict[str, Any]:
        """Processor options that skip what ``encode_audio`` does not use of these clips."""
        if self.family.audio_options is None or not clips:
            return {}
        return self.family.audio_options(self.processor, max(len(clip.samples) for clip in clips))

    def _tokenize(self, conversation: Conversation, index: int) -> torch.Tensor:
        """The token ids ``[T]`` of a prompt, without encoding its clips."""
        messages, clips = self.read(conversation, index)
        if self.family.encode_audio is None:
            return self.build_prompt(messages, index).input_ids
        ids: torch.Tensor = self.process([messages], self._audio_options(clips))["input_ids"][0]
        return ids

    def process(
        self, conversations: list[list[Message]], audio_options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The processor's tensors for a left-padded batch. A hook.

        Raises:
            MessageError: a conversation cannot be written as a prompt; its ``index`` is the position in the batch.

        """
        return processors.tensors_of(self.processor, self.tokenizer, conversations, audio_options)

    @torch.no_grad()
    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Model inputs for a batch, left-padded, on the model's device. A hook."""
        media = [bool(prompt.inputs) for prompt in prompts]
        if all(media):
            return self._to_device(merge_rows([prompt.inputs for prompt in prompts], self.tokenizer.pad_token_id))
        if any(media):
            raise ModelError("prompts with images or video, and others, cannot share a batch; see batches()")
        input_ids, mask = left_padded([prompt.input_ids for prompt in prompts], self.tokenizer.pad_token_id)
        input_ids, mask = input_ids.to(self.device), mask.to(self.device)
        clips = [clip for prompt in prompts for clip in prompt.clips]
        if not clips:
            return {"input_ids": input_ids, "attention_mask": mask, **self.embed(input_ids, mask)}
        # padding and placeholders may have the same id: replace only real positions
        where = (input_ids == self.audio_token_id) & mask.bool()
        # some families have no embedding of the placeholder
        inputs = self.embed(input_ids.masked_fill(where, 0), mask)
        embeds = inputs["inputs_embeds"]
        encoded = torch.cat([clip.to(embeds.device, embeds.dtype) for clip in clips])
        inputs["inputs_embeds"] = embeds.masked_scatter(where[..., None].to(embeds.device), encoded)
        return {"input_ids": input_ids, "attention_mask": mask, **inputs}

    def _to_device(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    def _prompts(self, conversations: Sequence[Conversation] | Sequence[Prompt]) -> list[Prompt]:
        check_conversations(conversations)
        prompts: list[Prompt] = [c for c in conversations if isinstance(c, Prompt)]
        if len(prompts) == len(conversations):
            return prompts
        if prompts:
            raise MessageError("the list mixes conversations and prepared prompts; pass either, not both")
        return self.prepare([c for c in conversations if not isinstance(c, Prompt)])

    def batches(self, prompts: list[Prompt], size: int) -> list[list[int]]:
        """Indices of the prompts in batches of similar length, to minimize padding. A hook.

        If padding leaks in the family's encoder, rows of a batch have media of the same shapes; see ``exact_batches``.
        """
        if size < 1:
            raise ModelError(f"batch_size must be at least 1, not {size}")
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, prompt in enumerate(prompts):
            key = media_shapes(prompt.inputs) if self.family.padding_leaks and self.exact_batches else ()
            groups.setdefault((bool(prompt.inputs), *key), []).append(index)
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
            conversations: lists of messages, or prompts from ``prepare``.
            max_new_tokens: the longest answer, in tokens.
            batch_size: conversations per forward.
            generation: options of transformers' ``generate``.

        Returns:
            The answers, in the order of the conversations (``num_return_sequences`` in a row for each).

        """
        prompts = self._prompts(conversations)
        options = self.generation_options(generation)
        answers: dict[int, list[str]] = {}
        observer = observer_of(self.module)
        records: dict[int, list[Any]] = {}  # the observer's, of each prompt
        with self.observed():
            for batch in self.batches(prompts, batch_size):
                inputs = self.collate([prompts[i] for i in batch])
                if observer is not None:
                    observer.batch_started()
                texts = self.decode(self.generate_tokens(inputs, max_new_tokens=max_new_tokens, **options))
                each = len(texts) // len(batch)
                for row, index in enumerate(batch):
                    answers[index] = texts[row * each : (row + 1) * each]
                if observer is not None:
                    records.update(zip(batch, observer.batch_finished(len(batch), each), strict=True))
            if observer is not None:
                observer.call_finished([record for index in sorted(records) for record in records[index]])
        return [text.strip() for index in range(len(prompts)) for text in answers[index]]

    def stream(
        self, conversation: Conversation | Prompt, max_new_tokens: int = 256, **generation: Any
    ) -> Iterator[str]:
        """Answer one conversation piece by piece, in whole words; the pieces joined are the answer.

        An error while the model answers is raised in the reader. Closing the iterator stops the model.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        prompt = conversation if isinstance(conversation, Prompt) else self.prepare([conversation])[0]
        inputs = self.collate([prompt])
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = self.generation_options(generation)
        closed = threading.Event()
        criteria = [*(options.pop("stopping_criteria", None) or ()), _stop_when(closed)]
        failures: list[BaseException] = []

        def run() -> None:
            try:
                with self.observed():
                    self.generate_tokens(
                        inputs,
                        max_new_tokens=max_new_tokens,
                        streamer=streamer,
                        stopping_criteria=StoppingCriteriaList(criteria),
                        **options,
                    )
            except BaseException as error:  # raised again in the reader's thread
                failures.append(error)
                streamer.end()

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            closed.set()
            worker.join()
        if failures:
            raise failures[0]

    def observed(self) -> AbstractContextManager[None]:
        """Entered while one call answers; an observer that can follow only one call refuses a second one."""
        observer = observer_of(self.module)
        return nullcontext() if observer is None else observer.answering()

    def generation_options(self, generation: dict[str, Any]) -> dict[str, Any]:
        """The options of ``generate_tokens`` for a user's generation options. A hook."""
        if not generation.get("do_sample"):
            # greedy decoding does not use the checkpoint's sampling settings, and transformers warns about them
            generation = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, **generation}
        return {"pad_token_id": self.tokenizer.pad_token_id, **generation}

    @torch.no_grad()
    def generate_tokens(self, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
        """The answers' tokens ``[B, new]``, without the prompt, for a batch from ``collate``. A hook."""
        return self.new_tokens(generating_part(self.module).generate(**inputs, **options), inputs)

    @staticmethod
    def new_tokens(generated: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """``[B, new]``: what transformers' ``generate`` returned for ``inputs``, without the prompt."""
        tokens: torch.Tensor = generated if torch.is_tensor(generated) else generated.sequences
        return tokens[:, inputs["input_ids"].shape[1] :]

    def decode(self, tokens: torch.Tensor) -> list[str]:
        """The text of each row of tokens ``[B, new]``. A hook."""
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    # ---- activations ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def last_token_activations(
        self, conversations: Sequence[Conversation] | Sequence[Prompt], *, batch_size: int = DEFAULT_BATCH
    ) -> torch.Tensor:
        """The output of every decoder layer at the last prompt token: ``[B, L, D]``, float32, on the CPU.

        The residual stream after each layer, before any final norm; ``lm_head`` does not run. If steering is attached,
        the activations are steered.
        """
        prompts = self._prompts(conversations)
        activations = torch.empty(len(prompts), len(self.decoder_layers), self.hidden_size)
        with self.observed():  # a forward would overwrite the decisions of another thread's answer
            for batch in self.batches(prompts, batch_size):
                with LastTokenCapture(self.decoder_layers) as capture:
                    self.forward_base(self.collate([prompts[i] for i in batch]))
                activations[batch] = capture.activations()
        return activations

    @torch.no_grad()
    def paired_activations(
        self, plain: Sequence[Conversation], prompted: Sequence[Conversation]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Last-token activations of two arms, each ``[B, L, D]``, in one batch.

        If the family allows it, and the two conversations of every row differ by the same change of their last text,
        the prompted arm continues the plain arm's key-value cache.
        """
        prompts = self.prepare(plain, remember=False)
        if self.shares_prefixes(prompts) and same_change(plain, prompted):
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
        """A forward without ``lm_head``; positions count from each row's first token, as in ``generate``. A hook."""
        inputs = {k: v for k, v in inputs.items() if k != "input_ids" or "inputs_embeds" not in inputs}
        if "inputs_embeds" in inputs and "position_ids" not in more:
            more["position_ids"] = token_positions(inputs["attention_mask"])
        more.setdefault("use_cache", False)
        return language_root(self.module).base_model(**inputs, **more)


def _stop_when(event: threading.Event) -> Any:
    """A stopping criterion of transformers: every row stops once ``event`` is set."""
    from transformers import StoppingCriteria

    class Stop(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((input_ids.shape[0],), event.is_set(), dtype=torch.bool, device=input_ids.device)

    return Stop()
