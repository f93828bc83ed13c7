"""Rewrite a prompt: text around the user's, a system message, or earlier turns that show a refusal."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarsteer.errors import MessageError, SarsteerError
from sarsteer.messages import Conversation, Message

INSTRUCTION = "{instruction}"


@dataclass(frozen=True)
class PromptRewrite:
    """Text that is added to a conversation.

    Attributes:
        name: in tables and logs.
        before: goes before the text of the last user message; it includes its separators.
        after: goes after that text.
        system: a system message; it is appended to an existing one.
        turns: (user, assistant) texts that precede the first user message.

    """

    name: str
    before: str = ""
    after: str = ""
    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()

    def apply(self, conversation: Conversation) -> list[Message]:
        """A rewritten copy of the conversation.

        ``before`` precedes the first text part of the last user message, not its audio; ``after`` follows the last text
        part. A message without text gets both as one part.

        Raises:
            MessageError: the conversation has no user message.

        """
        messages: list[Message] = [dict(message) for message in conversation]
        from_user = [i for i, message in enumerate(messages) if message.get("role") == "user"]
        if not from_user:
            raise MessageError(f"defense {self.name!r}: the conversation has no user message; add one")
        first, last = from_user[0], from_user[-1]
        messages[last]["content"] = self._around(messages[last]["content"])
        examples = [
            {"role": role, "content": text}
            for turn in self.turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return self._with_system([*messages[:first], *examples, *messages[first:]])

    def _around(self, content: Any) -> Any:
        if isinstance(content, str):
            return f"{self.before}{content}{self.after}"
        parts = [dict(part) for part in content]
        texts = [part for part in parts if part.get("type") == "text"]
        if texts:
            texts[0]["text"] = self.before + texts[0]["text"]
            texts[-1]["text"] += self.after
        elif self.before or self.after:
            parts.append({"type": "text", "text": f"{self.before}{self.after}".strip()})
        return parts

    def _with_system(self, messages: list[Message]) -> list[Message]:
        if not self.system:
            return messages
        if messages[0].get("role") != "system":
            return [{"role": "system", "content": self.system}, *messages]
        content = messages[0]["content"]
        if isinstance(content, str):
            added: Any = f"{content}\n\n{self.system}"
        else:
            added = [*content, {"type": "text", "text": self.system}]
        return [{**messages[0], "content": added}, *messages[1:]]


NO_REWRITE = PromptRewrite("none")


def load_rewrite(path: str | os.PathLike[str]) -> PromptRewrite:
    """Read a rewrite from a file, and name it after the file.

    The content of a text file goes on a new line after the user's text, or around it if the file contains
    ``{instruction}``. A ``.json`` file contains an object with any of ``before``, ``after``, ``system`` (strings, used
    unchanged) and ``turns`` (a list of [user, assistant]).

    Raises:
        SarsteerError: the file cannot be read, or has another form.

    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SarsteerError("is not UTF-8 text; save the prompt as plain text", place=str(path)) from None
    except OSError as error:
        raise SarsteerError(f"cannot be read ({error.strerror or error}); check the path", place=str(path)) from None
    if not text.strip():
        raise SarsteerError("is empty; write the prompt into it", place=str(path))
    if file.suffix == ".json":
        return _from_json(file, text)
    text = text.strip("\n")
    if INSTRUCTION not in text:
        return PromptRewrite(file.stem, after=f"\n{text}")
    before, _, after = text.partition(INSTRUCTION)
    if INSTRUCTION in after:
        raise SarsteerError(f"contains {INSTRUCTION} more than once; keep one", place=str(path))
    return PromptRewrite(file.stem, before=before, after=after)


def _from_json(file: Path, text: str) -> PromptRewrite:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise SarsteerError(f"is not valid JSON ({error.msg}, line {error.lineno}); fix it", place=str(file)) from None
    if not isinstance(fields, dict) or not fields or set(fields) - {"before", "after", "system", "turns"}:
        raise SarsteerError("must contain an object with any of before, after, system, turns", place=str(file))
    turns = fields.pop("turns", [])
    if not all(isinstance(value, str) for value in fields.values()):
        raise SarsteerError("before, after and system must be strings", place=str(file))
    if not isinstance(turns, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(side, str) for side in turn) for turn in turns
    ):
        raise SarsteerError("turns must be a list of [user, assistant], each a string", place=str(file))
    return PromptRewrite(file.stem, **fields, turns=tuple((user, assistant) for user, assistant in turns))
