"""Kimi-Audio: steered on its text path, through the inference loop of Moonshot's own package ``kimia_infer``.

Its checkpoint is remote code (``MoonshotKimiaForCausalLM``) with neither a processor nor transformers' ``generate``;
prompts and decoding are the package's. What is known of it, and what follows:

- Two streams of tokens, text and sound, are embedded and summed. 28 ``model.layers`` lead to the text head. After
  ``kimia_mimo_transformer_from_layer_index`` (21) the hidden state branches into 6 ``mimo_layers``, which lead to the
  sound head. ``model.layers`` are what is captured and steered; nothing is hooked in ``mimo_layers``. Spoken answers
  (``kimi.generate(..., output_type="both")``) still start from the steered state at the branch.
- A prompt's last position is the assistant's start in the sound stream and a blank in the text stream; the next text
  token is predicted there.
- The loop decodes one conversation at a time. ``batch_size`` is accepted, and rows run one after another.
- Sound is heard in chunks of 30 s that are joined, at 12.5 tokens a second: no clip is cut, but a prompt and its answer
  share 7,500 tokens, ten minutes. The loop keeps 4,096 answer tokens.
- Several clips a conversation are heard by the newer code; the first release's asserts one, which is told as such.
- There are user and assistant turns only, and an assistant's turn is text. The order of parts is kept; Moonshot's own
  examples put the instruction before the clip.
- The tokenizer leaves control tokens in a text as plain text; were they ever encoded as such, the text is refused.
- The package computes on the current CUDA device, and needs flash-attn.

How the code is made to fit transformers 5 stands in ``kimi_compat``.
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

import soundfile
import torch
from torch import nn

from sarsteer.errors import MessageError, ModelError
from sarsteer.messages import Conversation, Message
from sarsteer.models.base import AudioLanguageModel, Prompt
from sarsteer.models.families.kimi_audio_compat import tables_are_right
from sarsteer.models.layers import unwrap

CONTEXT = 7500
"""Tokens of prompt and answer together: the bound in the package's own ``generate``."""

_KEPT = 4096  # answer tokens that the loop has room for; it would drop later ones silently
_RATE = 16_000
_SAMPLING = ("text_temperature", "text_top_k", "text_repetition_penalty", "text_repetition_window_size")


@dataclass(frozen=True)
class KimiPrompt(Prompt):
    """A conversation in the two streams: ``input_ids`` is the sound stream, ``clips`` are continuous features.

    Attributes:
        text_ids: ``[T]``, the text stream.
        heard: ``[T]``, whether a position of the sound stream has continuous features.

    """

    text_ids: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    heard: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)


class KimiProcessor:
    """A ``kimia_infer`` object with what the base class expects of a processor."""

    padding_side = "left"

    def __init__(self, kimi: Any) -> None:
        self.kimi = kimi
        self.pad_token_id = int(kimi.extra_tokens.kimia_text_blank)


class KimiAudio(AudioLanguageModel):
    """Kimi-Audio with its package. Beside ``load_model``: ``AudioLanguageModel(kimi.alm, kimi)``."""

    def __init__(self, module: nn.Module, processor: Any, **options: Any) -> None:
        kimi = getattr(processor, "kimi", processor)
        if not all(hasattr(kimi, name) for name in ("alm", "prompt_manager", "extra_tokens", "_generate_loop")):
            raise ModelError("Kimi-Audio runs through its own package: give AudioLanguageModel(kimi.alm, kimi)")
        if unwrap(kimi.alm) is not unwrap(module):
            raise ModelError("the kimia_infer object runs another module; give AudioLanguageModel(kimi.alm, kimi)")
        if not tables_are_right(unwrap(module)):
            raise ModelError("its rotary tables hold no angles: it was loaded unfit for transformers 5; use load_model")
        self.kimi: Any = kimi
        super().__init__(module, KimiProcessor(kimi), **options)

    def check_processor(self) -> None:
        """It needs no chat template: the package's prompt manager stands in for one."""

    @property
    def sampling_rate(self) -> int:
        """The rate in Hz at which the model hears."""
        return _RATE

    @property
    def modalities(self) -> frozenset[str]:
        """Clips, beside text."""
        return frozenset({"audio"})

    # ---- prompts -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def build_prompt(self, messages: list[Message], index: int) -> KimiPrompt:
        """The two streams of a conversation; the package remembers no clips, and neither does this."""
        try:
            return self._streams(messages)
        except MessageError as error:
            raise error.at(f"conversation {index}", index) from None

    def _streams(self, messages: list[Message]) -> KimiPrompt:
        with tempfile.TemporaryDirectory(prefix="sarsteer-") as folder:  # the prompt manager hears files only
            chats = self._chats(messages, Path(folder))
            content = self.kimi.prompt_manager.get_prompt(chats, output_type="text")
        sound, text, heard = (row[0] for row in content.to_tensor()[:3])  # newer ones add masks for training
        if len(sound) >= CONTEXT:
            raise MessageError(
                f"its prompt takes {len(sound)} of {CONTEXT} tokens, which leaves none for an answer; "
                "cut the audio (12.5 tokens a second)"
            )
        return KimiPrompt(messages, sound, {}, tuple(content.continuous_feature), text, heard)

    def _chats(self, messages: list[Message], folder: Path) -> list[dict[str, str]]:
        """The package's messages: one a part, which it joins where the role stays the same."""
        chats: list[dict[str, str]] = []
        for number, message in enumerate(messages):
            role = message["role"]
            if role not in ("user", "assistant"):
                raise MessageError(
                    f"message {number}: Kimi-Audio knows no {role} messages; say it at the start of the user's"
                )
            for part in message["content"]:
                if part["type"] == "text":
                    self._check_plain(part["text"], number)
                    chats.append({"role": role, "message_type": "text", "content": part["text"]})
                    continue
                if role == "assistant":
                    raise MessageError(
                        f"message {number}: an assistant's turn is text in Kimi-Audio; give what it said"
                    )
                path = folder / f"{len(chats)}.wav"
                soundfile.write(path, part["audio"], _RATE, subtype="FLOAT")
                chats.append({"role": role, "message_type": "audio", "content": str(path)})
        if not chats:
            raise MessageError("the conversation is empty; give it text or audio")
        return chats

    def _check_plain(self, text: str, number: int) -> None:
        """Refuse a text in which the tokenizer takes control tokens for such: it could open a message of its own."""
        ids = self.kimi.prompt_manager.text_tokenizer.encode(text, bos=False, eos=False)
        control = min(value for value in vars(self.kimi.extra_tokens).values() if isinstance(value, int))
        first = getattr(unwrap(self.module).config, "num_base_tokens", None) or control
        if any(token >= first for token in ids):
            raise MessageError(f"message {number}: its text holds a control token of the model; take it out")

    def batches(self, prompts: list[Prompt], size: int) -> list[list[int]]:
        """One by one: the package's loop knows no padding."""
        super().batches(prompts, size)  # for its check of the size
        return [[index] for index in range(len(prompts))]

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """The two streams of one prompt, ``[1, T]`` each, and its features, on the model's device."""
        (prompt,) = prompts
        assert isinstance(prompt, KimiPrompt)
        streams = {"input_ids": prompt.input_ids, "text_input_ids": prompt.text_ids, "is_continuous_mask": prompt.heard}
        inputs: dict[str, Any] = {name: row[None].to(self.device) for name, row in streams.items()}
        # no clip is None and not an empty list, whose first feature the published code would look at
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
        options.pop("temperature", None)  # means nothing to greedy decoding
        unknown = sorted(set(options) - set(_SAMPLING))
        if unknown:
            raise ModelError(
                f"Kimi-Audio's own loop has no option {unknown[0]!r}; it takes do_sample, temperature, top_k, "
                f"{', '.join(_SAMPLING)}"
            )
        return {"text_temperature": 0.0, **options}

    @torch.no_grad()
    def generate_tokens(self, inputs: dict[str, Any], *, max_new_tokens: int = 256, **options: Any) -> torch.Tensor:
        """The answer's text tokens ``[1, new]``, from the package's own loop."""
        room = min(max_new_tokens, _KEPT, CONTEXT - inputs["input_ids"].shape[1])
        with _one_clip_told(inputs):
            _, tokens = self.kimi._generate_loop(
                audio_input_ids=inputs["input_ids"],
                text_input_ids=inputs["text_input_ids"],
                is_continuous_mask=inputs["is_continuous_mask"],
                continous_feature=inputs["whisper_input_feature"],  # spelled so there
                max_new_tokens=room,
                output_type="text",
                **options,
            )
        return torch.tensor([tokens], dtype=torch.long)

    def decode(self, tokens: torch.Tensor) -> list[str]:
        """The text of each row of tokens ``[B, new]``."""
        offset = self.kimi.kimia_token_offset  # ids from here on are sounds
        return [str(self.kimi.detokenize_text([t for t in row if t < offset])) for row in tokens.tolist()]

    def stream(
        self, conversation: Conversation | Prompt, max_new_tokens: int = 256, **generation: Any
    ) -> Iterator[str]:
        """Answer one conversation piece by piece; the pieces joined are the answer.

        The loop returns at its end only. What it has said so far is overheard where it feeds each text token back.
        An error in the middle is raised where the pieces are read, and the loop stops when the reader goes away.
        """
        prompt = conversation if isinstance(conversation, Prompt) else self.prepare([conversation])[0]
        inputs, options = self.collate([prompt]), self.generation_options(generation)
        said: queue.Queue[int | torch.Tensor | BaseException] = queue.Queue()
        gone = threading.Event()
        steps = 0

        def overhear(_module: nn.Module, _args: Any, fed: dict[str, Any]) -> None:
            nonlocal steps
            if threading.current_thread() is not worker:
                return
            if gone.is_set():
                raise _ReaderGoneError
            if steps:  # the first step feeds the prompt
                said.put(int(fed["text_input_ids"][0, -1]))
            steps += 1

        def run() -> None:
            try:
                with self.observed():
                    said.put(self.generate_tokens(inputs, max_new_tokens=max_new_tokens, **options))
            except BaseException as error:  # raised again in the reader's thread
                said.put(error)

        worker = threading.Thread(target=run, daemon=True)
        hook = unwrap(self.module).get_submodule("model").register_forward_pre_hook(overhear, with_kwargs=True)
        worker.start()
        tokens: list[int] = []
        shown = ""
        try:
            while True:
                item = said.get()
                if isinstance(item, BaseException):
                    raise item
                done = torch.is_tensor(item)
                tokens = item[0].tolist() if torch.is_tensor(item) else [*tokens, int(item)]
                text = self.decode(torch.tensor([tokens]))[0]
                whole = text if done else text.rstrip("\ufffd")  # a character's first bytes wait for its last
                if len(whole) > len(shown):
                    yield whole[len(shown) :]
                    shown = whole
                if done:
                    return
        finally:
            gone.set()
            worker.join()
            hook.remove()

    # ---- activations ---------------------------------------------------------------------------------------------

    def forward_base(self, inputs: dict[str, Any], **more: Any) -> Any:
        """A forward without heads, as the loop's prefill does it."""
        inner: Any = unwrap(self.module)
        with _one_clip_told(inputs):
            return inner.model(**{**inputs, "use_cache": False, "return_dict": False, **more})

    @torch.no_grad()
    def probe(self) -> list[torch.Tensor]:
        """Two steps of the package's own loop, a prefill and a decode step; the text logits of each, ``[1, V]``.

        For these two steps no token ends the text: steered by the proof's marks, the first one might.
        """
        inner: Any = unwrap(self.module)
        logits: list[torch.Tensor] = []
        extra = self.kimi.extra_tokens
        endless = copy.copy(extra)
        object.__setattr__(endless, "kimia_text_eos", -1)
        text = torch.tensor([[0, 1, 2]], device=self.device)
        inputs = {
            "input_ids": torch.full_like(text, int(extra.kimia_text_blank)),
            "text_input_ids": text,
            "is_continuous_mask": torch.zeros_like(text, dtype=torch.bool),
            "whisper_input_feature": None,
        }
        hook = inner.lm_head.register_forward_hook(lambda _m, _a, out: logits.append(out[:, -1].float()))
        self.kimi.extra_tokens = endless
        try:
            self.generate_tokens(inputs, max_new_tokens=2, text_temperature=0.0)
        finally:
            self.kimi.extra_tokens = extra
            hook.remove()
        return logits


@contextmanager
def _one_clip_told(inputs: dict[str, Any]) -> Iterator[None]:
    """Code of the first release asserts, without a word, that a conversation has one clip."""
    try:
        yield
    except AssertionError as error:
        clips = len(inputs["whisper_input_feature"] or ())
        if clips < 2:
            raise
        raise MessageError(
            f"{clips} clips in one conversation; this checkpoint's code hears one: update it, or send one clip"
        ) from error


class _ReaderGoneError(Exception):
    """Ends the loop of a stream that nobody reads any more."""
