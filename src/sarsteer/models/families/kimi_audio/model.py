"""Kimi-Audio: steered on its text path, inside the decoding loop of Moonshot's package ``kimia_infer``.

Its checkpoint is remote code (``MoonshotKimiaForCausalLM``) without a processor and without transformers' ``generate``;
the package builds prompts and decodes.

- Two token streams, text and sound, are embedded and summed. The 28 ``model.layers`` lead to the text head. After layer
  ``kimia_mimo_transformer_from_layer_index`` (21) the hidden state branches into 6 ``mimo_layers``, which lead to the
  sound head. ``model.layers`` are captured and steered; ``mimo_layers`` have no hooks. Spoken answers
  (``kimi.generate(..., output_type="both")``) still start from the steered state at the branch.
- A prompt ends with the assistant's start token in the sound stream and a blank in the text stream. The next text token
  is predicted at this position.
- The loop decodes one conversation at a time: ``batch_size`` is accepted, and rows run one after another.
- Audio is encoded in chunks of 30 s at 12.5 tokens per second. No clip is cut, but prompt and answer share 7,500
  tokens, ten minutes. The loop keeps 4,096 answer tokens.
- Newer code takes several clips per conversation; the first release's asserts one, which becomes a ``MessageError``.
- There are only user and assistant turns, and an assistant turn is text. The order of parts is kept; Moonshot's
  examples put the instruction before the clip.
- The tokenizer encodes control tokens in a text as plain text. If it ever did not, the text is refused.
- The package computes on the current CUDA device and needs flash-attn.

``compat`` adapts the code to transformers 5.
"""

from __future__ import annotations

import copy
import queue
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sarsteer.errors import MessageError, ModelError
from sarsteer.messages import Conversation, Message
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.families.kimi_audio.compat import tables_are_right
from sarsteer.models.layers import unwrap
from sarsteer.models.prompt import Prompt

CONTEXT = 7500
"""The most tokens of prompt and answer together; the package's ``generate`` has the same limit."""

_MAX_ANSWER = 4096  # answer tokens that the loop has room for; it would drop later ones silently
_RATE = 16_000
_SAMPLING = ("text_temperature", "text_top_k", "text_repetition_penalty", "text_repetition_window_size")


@dataclass(frozen=True)
class KimiPrompt(Prompt):
    """A conversation as two streams: ``input_ids`` is the sound stream, ``clips`` are continuous features.

    Attributes:
        text_ids: ``[T]``, the text stream.
        is_audio: ``[T]``, whether a position of the sound stream has continuous features.

    """

    text_ids: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    is_audio: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)


class KimiProcessor:
    """A ``kimia_infer`` object with the attributes that the base class reads from a processor."""

    padding_side = "left"

    def __init__(self, kimi: Any) -> None:
        self.kimi = kimi
        self.pad_token_id = int(kimi.extra_tokens.kimia_text_blank)


class KimiAudio(AudioLanguageModel):
    """Kimi-Audio with its package, from ``load_model`` or as ``AudioLanguageModel(kimi.alm, kimi)``."""

    def __init__(self, module: nn.Module, processor: Any, **options: Any) -> None:
        kimi = getattr(processor, "kimi", processor)
        if not all(hasattr(kimi, name) for name in ("alm", "prompt_manager", "extra_tokens", "_generate_loop")):
            raise ModelError(
                f"a {type(kimi).__name__} cannot run Kimi-Audio; pass its package's object: "
                "AudioLanguageModel(kimi.alm, kimi)"
            )
        if unwrap(kimi.alm) is not unwrap(module):
            raise ModelError("the kimia_infer object runs another module; pass AudioLanguageModel(kimi.alm, kimi)")
        if not tables_are_right(unwrap(module)):
            raise ModelError("its rotary tables were not initialized by transformers 5; load it with load_model")
        self.kimi: Any = kimi
        super().__init__(module, KimiProcessor(kimi), **options)

    def check_processor(self) -> None:
        """Do nothing: the package's prompt manager replaces the chat template."""

    @property
    def sampling_rate(self) -> int:
        """The sampling rate of the model's audio, in Hz."""
        return _RATE

    @property
    def modalities(self) -> frozenset[str]:
        """Audio, besides text."""
        return frozenset({"audio"})

    # ---- prompts -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def build_prompt(self, messages: list[Message], index: int) -> KimiPrompt:
        """The two streams of a conversation. Clips are not cached: the package encodes them in its forward."""
        try:
            return self._streams(messages)
        except MessageError as error:
            raise error.at(f"conversation {index}", index) from None

    def _streams(self, messages: list[Message]) -> KimiPrompt:
        with tempfile.TemporaryDirectory(prefix="sarsteer-") as folder:  # the prompt manager reads files only
            chats = self._chats(messages, Path(folder))
            content = self.kimi.prompt_manager.get_prompt(chats, output_type="text")
        sound, text, is_audio = (row[0] for row in content.to_tensor()[:3])  # newer code adds masks for training
        if len(sound) >= CONTEXT:
            raise MessageError(
                f"its prompt takes {len(sound)} of {CONTEXT} tokens, which leaves none for an answer; "
                "shorten the audio (12.5 tokens per second)"
            )
        return KimiPrompt(messages, sound, {}, tuple(content.continuous_feature), text, is_audio)

    def _chats(self, messages: list[Message], folder: Path) -> list[dict[str, str]]:
        """The package's messages, one per part; it joins consecutive ones of the same role."""
        import soundfile

        chats: list[dict[str, str]] = []
        for number, message in enumerate(messages):
            role = message["role"]
            if role not in ("user", "assistant"):
                raise MessageError(
                    f"message {number}: Kimi-Audio has no {role} messages; put the text at the start of the user's"
                )
            for part in message["content"]:
                if part["type"] == "text":
                    self._check_plain(part["text"], number)
                    chats.append({"role": role, "message_type": "text", "content": part["text"]})
                    continue
                if role == "assistant":
                    raise MessageError(
                        f"message {number}: Kimi-Audio's assistant turns are text; replace the clip by its transcript"
                    )
                path = folder / f"{len(chats)}.wav"
                soundfile.write(path, part["audio"], _RATE, subtype="FLOAT")
                chats.append({"role": role, "message_type": "audio", "content": str(path)})
        if not chats:
            raise MessageError("the conversation is empty; add text or audio")
        return chats

    def _check_plain(self, text: str, number: int) -> None:
        """Refuse a text that the tokenizer encodes with control tokens: it could start a message."""
        ids = self.kimi.prompt_manager.text_tokenizer.encode(text, bos=False, eos=False)
        control = min(value for value in vars(self.kimi.extra_tokens).values() if isinstance(value, int))
        first = getattr(unwrap(self.module).config, "num_base_tokens", None) or control
        if any(token >= first for token in ids):
            raise MessageError(f"message {number}: its text contains a control token of the model; remove it")

    def batches(self, prompts: list[Prompt], size: int) -> list[list[int]]:
        """One prompt per batch: the package's loop has no padding."""
        super().batches(prompts, size)  # checks the size
        return [[index] for index in range(len(prompts))]

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """The two streams of one prompt, ``[1, T]`` each, and its features, on the model's device."""
        (prompt,) = prompts
        assert isinstance(prompt, KimiPrompt)
        streams = {
            "input_ids": prompt.input_ids,
            "text_input_ids": prompt.text_ids,
            "is_continuous_mask": prompt.is_audio,
        }
        inputs: dict[str, Any] = {name: row[None].to(self.device) for name, row in streams.items()}
        # None rather than an empty list, whose first feature the published code would read
        inputs["whisper_input_feature"] = [clip.to(self.device, self.dtype) for clip in prompt.clips] or None
        return inputs

    # ---- answers -------------------------------------------------------------------------------------------------

    def generation_options(self, generation: dict[str, Any]) -> dict[str, Any]:
        """The options of the package's loop."""
        options = {key: value for key, value in generation.items() if value is not None}
        if options.pop("do_sample", False):
            options["text_temperature"] = options.pop("temperature", options.get("text_temperature", 1.0))
        if "top_k" in options:
            options["text_top_k"] = options.pop("top_k")
        options.pop("temperature", None)  # greedy decoding has none
        unknown = sorted(set(options) - set(_SAMPLING))
        if unknown:
            raise ModelError(
                f"Kimi-Audio's loop has no option {unknown[0]!r}; use do_sample, temperature, top_k, "
                f"{', '.join(_SAMPLING)}"
            )
        return {"text_temperature": 0.0, **options}

    @torch.no_grad()
    def generate_tokens(self, inputs: dict[str, Any], *, max_new_tokens: int = 256, **options: Any) -> torch.Tensor:
        """The answer's text tokens ``[1, new]``, from the package's loop."""
        room = min(max_new_tokens, _MAX_ANSWER, CONTEXT - inputs["input_ids"].shape[1])
        with _explain_one_clip(inputs):
            _, tokens = self.kimi._generate_loop(
                audio_input_ids=inputs["input_ids"],
                text_input_ids=inputs["text_input_ids"],
                is_continuous_mask=inputs["is_continuous_mask"],
                continous_feature=inputs["whisper_input_feature"],  # the package's spelling
                max_new_tokens=room,
                output_type="text",
                **options,
            )
        return torch.tensor([tokens], dtype=torch.long)

    def decode(self, tokens: torch.Tensor) -> list[str]:
        """The text of each row of tokens ``[B, new]``."""
        offset = self.kimi.kimia_token_offset  # ids from here on are sound tokens
        return [str(self.kimi.detokenize_text([t for t in row if t < offset])) for row in tokens.tolist()]

    def stream(
        self, conversation: Conversation | Prompt, max_new_tokens: int = 256, **generation: Any
    ) -> Iterator[str]:
        """Answer one conversation piece by piece; the pieces joined are the answer.

        The loop returns only at its end. A hook reads the text tokens that it feeds back into the model. An error in
        the loop is raised in the reader, and the loop stops when the reader closes the stream.
        """
        prompt = conversation if isinstance(conversation, Prompt) else self.prepare([conversation])[0]
        inputs, options = self.collate([prompt]), self.generation_options(generation)
        produced: queue.Queue[int | torch.Tensor | BaseException] = queue.Queue()
        closed = threading.Event()
        steps = 0

        def read_token(_module: nn.Module, _args: Any, step: dict[str, Any]) -> None:
            nonlocal steps
            if threading.current_thread() is not worker:
                return
            if closed.is_set():
                raise _StreamClosedError
            if steps:  # the first step feeds the prompt
                produced.put(int(step["text_input_ids"][0, -1]))
            steps += 1

        def run() -> None:
            try:
                with self.observed():
                    produced.put(self.generate_tokens(inputs, max_new_tokens=max_new_tokens, **options))
            except BaseException as error:  # raised again in the reader's thread
                produced.put(error)

        worker = threading.Thread(target=run, daemon=True)
        hook = unwrap(self.module).get_submodule("model").register_forward_pre_hook(read_token, with_kwargs=True)
        worker.start()
        tokens: list[int] = []
        yielded = ""
        try:
            while True:
                item = produced.get()
                if isinstance(item, BaseException):
                    raise item
                done = torch.is_tensor(item)
                tokens = item[0].tolist() if torch.is_tensor(item) else [*tokens, int(item)]
                text = self.decode(torch.tensor([tokens]))[0]
                whole = text if done else text.rstrip("\ufffd")  # wait for the last byte of a character
                if len(whole) > len(yielded):
                    yield whole[len(yielded) :]
                    yielded = whole
                if done:
                    return
        finally:
            closed.set()
            worker.join()
            hook.remove()

    # ---- activations ---------------------------------------------------------------------------------------------

    def forward_base(self, inputs: dict[str, Any], **more: Any) -> Any:
        """A forward without heads, like the loop's prefill."""
        inner: Any = unwrap(self.module)
        with _explain_one_clip(inputs):
            return inner.model(**{**inputs, "use_cache": False, "return_dict": False, **more})

    @torch.no_grad()
    def probe(self) -> list[torch.Tensor]:
        """The text logits ``[1, V]`` of a prefill and of a decode step of the package's loop.

        No token ends the text in these two steps: steered by the proof's marks, the first one might.
        """
        inner: Any = unwrap(self.module)
        logits: list[torch.Tensor] = []
        extra = self.kimi.extra_tokens
        without_end = copy.copy(extra)
        object.__setattr__(without_end, "kimia_text_eos", -1)
        text = torch.tensor([[0, 1, 2]], device=self.device)
        inputs = {
            "input_ids": torch.full_like(text, int(extra.kimia_text_blank)),
            "text_input_ids": text,
            "is_continuous_mask": torch.zeros_like(text, dtype=torch.bool),
            "whisper_input_feature": None,
        }
        hook = inner.lm_head.register_forward_hook(lambda _m, _a, out: logits.append(out[:, -1].float()))
        self.kimi.extra_tokens = without_end
        try:
            self.generate_tokens(inputs, max_new_tokens=2, text_temperature=0.0)
        finally:
            self.kimi.extra_tokens = extra
            hook.remove()
        return logits


@contextmanager
def _explain_one_clip(inputs: dict[str, Any]) -> Iterator[None]:
    """The first release's code asserts, without a message, that a conversation has one clip."""
    try:
        yield
    except AssertionError as error:
        clips = len(inputs["whisper_input_feature"] or ())
        if clips < 2:
            raise
        raise MessageError(
            f"{clips} clips in one conversation; this checkpoint's code takes one: update it, or send one clip"
        ) from error


class _StreamClosedError(Exception):
    """Ends the loop after the reader closed the stream."""
