"""Judge prompts that others wrote: read from their own files, never shipped."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from sarsteer.errors import JudgeError


def fill(template: str, values: dict[str, str]) -> str:
    """``template`` with each ``{name}`` replaced, in one pass: braces in an answer are left alone."""
    pattern = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return pattern.sub(lambda match: values[match[0][1:-1]], template)


def read_template(path: str | os.PathLike[str], names: tuple[str, ...]) -> str:
    """A text file that holds ``{name}`` for each of ``names``.

    Raises:
        JudgeError: it cannot be read, or lacks a name.

    """
    text = _read(path)
    lacking = [f"{{{name}}}" for name in names if f"{{{name}}}" not in text]
    if lacking:
        raise JudgeError(f"{path}: holds no {' and no '.join(lacking)}; write where they belong")
    return text


def read_judge_prompts(path: str | os.PathLike[str], choice: str | None = None) -> str:
    """A template from a benchmark's judge-prompt file, or from a text file with ``{question}`` and ``{answer}``.

    The former is FastChat's form, JSON Lines with ``name`` and ``prompt_template``, which SORRY-Bench uses.

    Args:
        path: the file.
        choice: the name of the template; needed where several hold ``{question}`` and ``{answer}``.

    Raises:
        JudgeError: there is no such template, or several.

    """
    if Path(path).suffix != ".jsonl":
        return read_template(path, ("question", "answer"))
    found: dict[str, str] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        row = _row(line, f"{path}, line {number}")
        template = row.get("prompt_template")
        if isinstance(template, str) and "{question}" in template and "{answer}" in template:
            found[str(row.get("name", number))] = template
    if choice is None and len(found) == 1:
        return next(iter(found.values()))
    if choice in found:
        return found[str(choice)]
    if not found:
        raise JudgeError(f"{path}: no prompt_template holds {{question}} and {{answer}}; give a judge-prompt file")
    problem = "holds several templates" if choice is None else f"holds no template {choice!r}"
    raise JudgeError(f"{path}: {problem}; choose prompt_name among {', '.join(found)}")


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise JudgeError(f"{where}: is not JSON ({error.msg}); give the benchmark's own judge-prompt file") from None
    if not isinstance(row, dict):
        raise JudgeError(f"{where}: is no JSON object; give the benchmark's own judge-prompt file")
    return row


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise JudgeError(f"{path}: is not text in UTF-8; give a file of judge prompts") from None
    except OSError as error:
        raise JudgeError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
