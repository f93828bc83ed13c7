"""Keep control tokens in a user's text plain text: a text must not start a turn or place a clip.

transformers 5.23 does so with ``sanitize_control_tokens``. With older versions the text is refused.
"""

from __future__ import annotations

import inspect
from typing import Any

from sarsteer.errors import MessageError
from sarsteer.messages import Message


def can_sanitize(processor: Any) -> bool:
    """Whether this transformers can encode control tokens in a text as plain text."""
    return "sanitize_control_tokens" in inspect.signature(processor.apply_chat_template).parameters


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """The strings that ``tokenizer`` encodes as tokens of their own, wherever they are in a text."""
    return frozenset(str(token) for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()) if token)


def refuse_control_tokens(conversations: list[list[Message]], tokenizer: Any) -> None:
    """Raise ``MessageError``, with the conversation's index, if a text contains a control token of ``tokenizer``."""
    controls = control_tokens(tokenizer)
    for index, conversation in enumerate(conversations):
        for number, message in enumerate(conversation):
            for part in message["content"]:
                found = [token for token in controls if part["type"] == "text" and token in part["text"]]
                if found:
                    raise MessageError(
                        f"message {number}: its text contains the control token {found[0]}, which this transformers "
                        "cannot keep as plain text; remove it, or upgrade to transformers 5.23",
                        place=f"conversation {index}",
                        index=index,
                    )
