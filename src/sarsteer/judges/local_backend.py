"""A judge's model that runs locally with transformers: left-padded batches, greedy decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sarsteer.errors import AnswerError, JudgeError
from sarsteer.judges.backend import Backend, Reply
from sarsteer.messages import Message
from sarsteer.models.device import choose_device, to_device

Progress = Callable[[int, int], None]


class LocalBackend(Backend):
    """A causal language model and its tokenizer.

    Judged texts are never cut: a prompt that exceeds the model's window gets an ``AnswerError`` instead of a reply.
    Control tokens of the tokenizer (``<|eot_id|>``) in a judged text are split, so that an answer cannot end its
    quotation and address the judge.

    Args:
        name: a folder, or a name on the Hub.
        batch_size: prompts per forward pass.
        device: a GPU if there is one, by default.
        dtype: the checkpoint's own by default.
        revision: branch, tag or commit on the Hub.
        progress: called with the number of prompts answered so far and their total, per call.

    Raises:
        JudgeError: the model cannot be loaded, or weights are missing.

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
        import transformers

        self.name = name
        self._batch_size = batch_size
        self._progress = progress
        target = choose_device(device)  # checked before the weights are read
        try:
            config = transformers.AutoConfig.from_pretrained(name, revision=revision)
            known = next((a for a in config.architectures or () if hasattr(transformers, a)), "AutoModelForCausalLM")
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
            self._model, report = getattr(transformers, known).from_pretrained(
                name, revision=revision, dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise _explain(name, error) from error
        missing = sorted(report.get("missing_keys") or ())
        if missing:
            raise JudgeError(
                f"{len(missing)} weights are missing ({missing[0]}, ...) and would be random; use a complete "
                "checkpoint, or a version of transformers that fits it",
                place=name,
            )
        self._model = to_device(self._model, target, name).eval()
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self._tokenizer.chat_template)

    def ask(self, conversations: Sequence[list[Message]], max_new_tokens: int) -> list[Reply]:
        """The reply to each conversation, in the tokenizer's chat template."""
        return self._answer([self._prompt(turns) for turns in conversations], max_new_tokens, special=False)

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> list[Reply]:
        """The continuation of each prompt, after the tokenizer's beginning-of-text token."""
        return self._answer(list(prompts), max_new_tokens, special=True)

    def split_control_tokens(self, text: str, *more: str) -> str:
        """``text`` with a space in each of the tokenizer's control tokens, and in ``more``."""
        for token in sorted({*self._tokenizer.all_special_tokens, *self._added, *more}, key=len, reverse=True):
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    @property
    def _added(self) -> list[str]:
        return [str(token.content) for token in self._tokenizer.added_tokens_decoder.values() if token.special]

    def _prompt(self, turns: list[Message]) -> str:
        if not self.has_chat_template:
            raise JudgeError("the tokenizer has no chat template; use the model's instruct version", place=self.name)
        quoted = [{**turn, "content": self.split_control_tokens(turn["content"])} for turn in turns]
        typed = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in quoted]
        for form in (quoted, typed):  # templates take strings or typed parts, and may silently drop the other
            try:
                text = str(self._tokenizer.apply_chat_template(form, tokenize=False, add_generation_prompt=True))
            except Exception as error:  # a template is the checkpoint's code and may raise anything
                reason = f"{type(error).__name__}: {error}"
                continue
            if all(turn["content"].strip() in text for turn in quoted):
                return text
            reason = "it leaves out the judged text"
        raise JudgeError(
            f"the chat template rejects the conversation ({' '.join(reason.split())}); use another model, or prompts",
            place=self.name,
        )

    def _answer(self, prompts: list[str], max_new_tokens: int, special: bool) -> list[Reply]:
        import torch

        rows = [self._tokenizer(text, add_special_tokens=special)["input_ids"] for text in prompts]
        window = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        replies: dict[int, Reply] = {}
        for i, row in enumerate(rows):
            if window is not None and len(row) + max_new_tokens > window:
                replies[i] = AnswerError(
                    f"the prompt's {len(row)} tokens do not fit the judge's window of {window}; use another judge",
                    place=self.name,
                )
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


def _explain(name: str, error: Exception) -> JudgeError:
    if isinstance(error, OSError) and not Path(name).exists():
        return JudgeError(
            f"unknown judge model {name!r}: not a folder, and not reachable on the Hub; check the name, the network, "
            "HF_TOKEN (gated judges require accepting their license) and HF_HUB_OFFLINE"
        )
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return JudgeError("the folder has no config.json; give one that save_pretrained wrote", place=name)
    reason = " ".join(str(error).split()) or type(error).__name__
    return JudgeError(f"cannot be loaded ({reason}); check the checkpoint and the version of transformers", place=name)
