"""Judge prompts of other authors: read from their files, never shipped."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from sarsteer.errors import JudgeError


def fill(template: str, values: dict[str, str]) -> str:
    """``template`` with each ``{name}`` replaced, in one pass, so that braces in an answer stay as they are."""
    pattern = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return pattern.sub(lambda match: values[match[0][1:-1]], template)


def read_template(path: str | os.PathLike[str], names: tuple[str, ...]) -> str:
    """A text file with ``{name}`` for each of ``names``.

    Raises:
        JudgeError: the file cannot be read, or a name is missing.

    """
    text = _read(path)
    missing = [f"{{{name}}}" for name in names if f"{{{name}}}" not in text]
    if missing:
        raise JudgeError(f"does not contain {' and '.join(missing)}; add them where the texts belong", place=str(path))
    return text


def read_judge_prompts(path: str | os.PathLike[str], choice: str | None = None) -> str:
    """A template from a benchmark's judge-prompt file, or from a text file with ``{question}`` and ``{answer}``.

    A judge-prompt file has FastChat's form, which SORRY-Bench uses: JSON Lines with ``name`` and ``prompt_template``.

    Args:
        path: the file.
        choice: the template's name; required if several templates contain ``{question}`` and ``{answer}``.

    Raises:
        JudgeError: there is no such template, or there are several.

    """
    if Path(path).suffix != ".jsonl":
        return read_template(path, ("question", "answer"))
    templates: dict[str, str] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        row = _row(line, f"{path}, line {number}")
        template = row.get("prompt_template")
        if isinstance(template, str) and "{question}" in template and "{answer}" in template:
            templates[str(row.get("name", number))] = template
    if choice is None and len(templates) == 1:
        return next(iter(templates.values()))
    if choice in templates:
        return templates[str(choice)]
    if not templates:
        problem = "no prompt_template contains {question} and {answer}; give a judge-prompt file"
        raise JudgeError(problem, place=str(path))
    problem = "contains several templates" if choice is None else f"contains no template {choice!r}"
    raise JudgeError(f"{problem}; set prompt_name to one of {', '.join(templates)}", place=str(path))


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise JudgeError(
            f"is not valid JSON ({error.msg}); give the benchmark's own judge-prompt file", place=place
        ) from None
    if not isinstance(row, dict):
        raise JudgeError("is not a JSON object; give the benchmark's own judge-prompt file", place=place)
    return row


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise JudgeError("is not UTF-8 text; give a file of judge prompts", place=str(path)) from None
    except OSError as error:
        raise JudgeError(f"cannot be read ({error.strerror or error}); check the path", place=str(path)) from None
