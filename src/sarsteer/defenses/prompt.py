"""Defense by prompt: text around the user's, built in or from a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from sarsteer.defenses.base import Defense, DefenseContext
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.prompt_texts import ALIASES, PROMPT_TEXTS
from sarsteer.defenses.rewrite import load_rewrite
from sarsteer.errors import EvaluationError, did_you_mean
from sarsteer.registry import option

NAMES = tuple(sorted({*ALIASES, *PROMPT_TEXTS} - {*ALIASES.values()}))


@dataclass(frozen=True)
class PromptDefense(Defense):
    """Text around the user's."""

    name: ClassVar[str] = "prompt"

    text: str = option(argument=True, help=f"{', '.join(NAMES)}, or a text or JSON file")

    def __post_init__(self) -> None:
        if ALIASES.get(self.text, self.text) not in PROMPT_TEXTS and not Path(self.text).is_file():
            raise EvaluationError(
                f"defense 'prompt:{self.text}': neither a built-in prompt nor a file; use one of {', '.join(NAMES)}"
                + did_you_mean(self.text, NAMES)
            )

    def build(self, context: DefenseContext) -> BuiltDefense:
        """Read the file, if it is one."""
        rewrite = PROMPT_TEXTS.get(ALIASES.get(self.text, self.text)) or load_rewrite(self.text)
        return BuiltDefense({"kind": self.name, **asdict(rewrite)}, prompt=rewrite)
