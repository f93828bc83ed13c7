"""Every command in the docs is one that the parsers accept, and every Python block names things that exist.

What needs no other model or server also runs: see ``test_tutorial.py``, ``test_examples.py``, ``test_write_*.py``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys

import click
import pytest
import typer

from sarsteer.cli.main import app
from tests.docs.snippets import PAGES, ROOT, Block, blocks, commands

SARSTEER = typer.main.get_command(app)
ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL if block.language == "sh" or re.match(r"(pip|sarsteer) ", block.text)]
PYTHON = [block for block in ALL if block.language == "python"]
toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
EXTRAS = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def parse(words: list[str]) -> None:
    """Parse a ``sarsteer`` command with its own parser, without running it."""
    context = click.Context(SARSTEER, info_name="sarsteer")
    command = SARSTEER.commands[words[0]]  # type: ignore[attr-defined]
    try:
        command.make_context(words[0], words[1:], parent=context)
    except typer.Exit as end:  # an option that prints and ends, such as --print-config
        if end.exit_code:
            raise


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands(block: Block) -> None:
    checked = 0
    for words in commands(block):
        match words:
            case ["sarsteer", first, *_] if not first.startswith("-"):
                parse(words[1:])
            case ["make", *targets]:
                named = [word for word in targets if "=" not in word]
                assert set(named) <= set(TARGETS), words
            case ["pip", "install", *rest]:
                for extra in re.findall(r"sarsteer\[([\w,-]+)\]", " ".join(rest)):
                    assert set(extra.split(",")) <= set(EXTRAS), words
            case ["python" | "python3", "-m", module, *_]:
                assert importlib.util.find_spec(module), words
            case _:
                continue
        checked += 1
    assert checked or not block.text.lstrip().startswith("sarsteer"), block.place


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(Exception, match="--alhpa"):
        parse(["respond", "sarsteer-tiny", "--audio", "a.wav", "--alhpa", "1"])


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_python(block: Block) -> None:
    """It is valid, imports what exists, and calls attributes of ``sarsteer`` that exist."""
    if re.search(r"\(\.\.\.,", block.text):  # two calls side by side, not a program
        return
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sarsteer"):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), name.name
        if isinstance(node, ast.Attribute) and re.fullmatch(r"sarsteer(\.\w+)+", dotted := ast.unparse(node)):
            value = importlib.import_module("sarsteer")
            for part in re.findall(r"\w+", dotted)[1:]:
                if not hasattr(value, part) and importlib.util.find_spec(f"{value.__name__}.{part}"):
                    importlib.import_module(f"{value.__name__}.{part}")
                value = getattr(value, part)
