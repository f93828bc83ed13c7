"""Every line of docs/threat-model.md names a test that exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", TEXT)))


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert (ROOT / path).is_file(), f"{path} does not exist"
    assert function.startswith("test_")
    assert function in functions(ROOT / path)


def test_every_guarantee_names_a_test() -> None:
    section, lines = "", 0
    for line in TEXT.splitlines():
        if line.startswith("| guaranteed"):
            section = "guaranteed"
        elif not line.startswith("|"):
            section = ""
        elif section and not line.startswith("|---"):
            lines += 1
            assert re.search(r"`tests/[\w/]+\.py::\w+`", line), f"names no test: {line}"
    assert lines > 30
