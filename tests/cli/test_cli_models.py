"""``sarsteer models``: the table of the registry, and its copy in the documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import transformers

from sarsteer.models.family import families

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def run(*options: str) -> str:
    command = [sys.executable, "-m", "sarsteer.cli.main", "models", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_documentation_contains_the_table_of_the_registry() -> None:
    start, end = "<!-- made by: sarsteer models --markdown -->\n", "<!-- end -->"
    table = DOCS.read_text(encoding="utf-8").split(start)[1].split(end)[0]
    assert table.strip() == run("--markdown").strip(), "run: python docs/make_models.py"


def test_every_family_is_listed() -> None:
    rows = json.loads(run("--json"))
    assert [row["family"] for row in rows[:-2]] == [family.name for family in families()]
    assert all(row["tested"] and row["engines"] for row in rows)
    table = run()
    assert all(family.name.split()[0] in table for family in families())


def test_entries_name_classes_that_transformers_has() -> None:
    remote = {"QWenLMHeadModel", "MoonshotKimiaForCausalLM"}
    named = {architecture for family in families() for architecture in family.architectures} - remote
    assert [name for name in sorted(named) if not hasattr(transformers, name)] == []
