"""A judge's model, run here through transformers: loaded once, in batches padded on the left, greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sarsteer.errors import AnswerError, JudgeError
from sarsteer.judges.backend import Backend, Reply
from sarsteer.messages import Message

Progress = Callable[[int, int], None]


class LocalBackend(Backend):
    """A causal language model with its tokenizer.

    What is judged is never cut: an answer that does not fit the model's window is no reply, and counted as such.
    A judged text that holds the tokenizer's control tokens (``<|eot_id|>``) has them pulled apart, so that no answer
    can end its own quotation and speak to the judge as someone else.

    Args:
        name: a folder, or a name on the Hub.
        batch_size: prompts in a forward.
        device: by default the GPU where there is one.
        dtype: by default the checkpoint's own.
        revision: branch, tag or commit on the Hub.
        progress: called with the number of prompts answered, and of all of this call.

    Raises:
        JudgeError: it cannot be loaded, or its weights are incomplete.

    """

    def __init__(
        self,
        name: str,
        batch_size: int = 8,
        device: str | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        import torch
        import transformers

        if batch_size < 1:
            raise JudgeError(f"batch_size must be at least 1, not {batch_size}")
        self.name = name
        self.at_once = 8 * batch_size  # enough to sort by length
        self._batch_size = batch_size
        self._progress = progress
        try:
            config = transformers.AutoConfig.from_pretrained(name, revision=revision)
            named = next((a for a in config.architectures or () if hasattr(transformers, a)), "AutoModelForCausalLM")
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
            self._model, report = getattr(transformers, named).from_pretrained(
                name, revision=revision, dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise JudgeError(_why_not(name, error)) from error
        missing = sorted(report.get("missing_keys") or ())
        if missing:
            raise JudgeError(
                f"{name}: {len(missing)} weights are missing ({missing[0]}, ...) and would be random; "
                "the checkpoint does not fit this version of transformers"
            )
        self._model = self._model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer knows how a conversation is written."""
        return bool(self._tokenizer.chat_template)

    def ask(self, conversations: Sequence[list[Message]], max_new_tokens: int) -> list[Reply]:
        """Replies to conversations, written with the tokenizer's own chat template."""
        return self._answer([self._written(turns) for turns in conversations], max_new_tokens, special=False)

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> list[Reply]:
        """What follows each prompt, which begins as the tokenizer begins a text."""
        return self._answer(list(prompts), max_new_tokens, special=True)

    def harmless(self, text: str, *also: str) -> str:
        """``text`` with the tokenizer's control tokens, and those named, pulled apart."""
        for token in sorted({*self._tokenizer.all_special_tokens, *self._added, *also}, key=len, reverse=True):
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    @property
    def _added(self) -> list[str]:
        return [str(token.content) for token in self._tokenizer.added_tokens_decoder.values() if token.special]

    def _written(self, turns: list[Message]) -> str:
        if not self.has_chat_template:
            raise JudgeError(f"{self.name}: its tokenizer has no chat template; use the instruct version of the model")
        quoted = [{**turn, "content": self.harmless(turn["content"])} for turn in turns]
        typed = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in quoted]
        for form in (quoted, typed):  # a template takes strings, or typed parts, and may drop the other silently
            try:
                text = str(self._tokenizer.apply_chat_template(form, tokenize=False, add_generation_prompt=True))
            except Exception as error:  # a template is code of the checkpoint's and raises what it likes
                why = f"{type(error).__name__}: {error}"
                continue
            if all(turn["content"].strip() in text for turn in quoted):
                return text
            why = "it leaves out what is to be judged"
        raise JudgeError(f"{self.name}: its chat template does not take this conversation ({' '.join(why.split())})")

    def _answer(self, prompts: list[str], max_new_tokens: int, special: bool) -> list[Reply]:
        import torch

        rows = [self._tokenizer(text, add_special_tokens=special)["input_ids"] for text in prompts]
        window = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        replies: dict[int, Reply] = {}
        for i, row in enumerate(rows):
            if window is not None and len(row) + max_new_tokens > window:
                replies[i] = AnswerError(f"{self.name}: {len(row)} tokens do not fit the judge's window of {window}")
        todo = sorted((i for i in range(len(rows)) if i not in replies), key=lambda i: -len(rows[i]))
        for start in range(0, len(todo), self._batch_size):
            batch = todo[start : start + self._batch_size]
            inputs = self._tokenizer.pad({"input_ids": [rows[i] for i in batch]}, return_tensors="pt")
            inputs = {key: inputs[key].to(self._model.device) for key in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                out = self._model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
            texts = self._tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            replies.update(zip(batch, texts, strict=True))
            if self._progress is not None:
                self._progress(len(replies), len(rows))
        return [replies[i] for i in range(len(rows))]


def _why_not(name: str, error: Exception) -> str:
    if isinstance(error, OSError) and not Path(name).exists():
        return (
            f"unknown judge model {name!r}: neither a folder, nor reachable on the Hub; check the name, your network, "
            "HF_TOKEN (gated judges need their licence accepted) and HF_HUB_OFFLINE"
        )
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return f"{name}: is a folder without config.json; give a folder that save_pretrained wrote"
    return f"{name}: cannot be loaded ({' '.join(str(error).split()) or type(error).__name__})"
