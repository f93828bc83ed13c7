"""``--help`` of every command, at every width."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import click
import pytest
import typer

from sarsteer.cli.main import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def help_of(command: str, width: int) -> str:
    """What a terminal of ``width`` columns shows, rendered in this process: starting one takes seconds."""
    shown = COMMANDS[command]
    context = click.Context(shown, info_name=f"sarsteer {command}", terminal_width=width, max_content_width=width)
    return str(shown.get_help(context))


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_shows_every_option_in_full(command: str, width: int) -> None:
    text = help_of(command, width)
    names = {name for option in COMMANDS[command].params for name in option.opts if name.startswith("--")}
    words = set(re.findall(r"--[\w-]+", text))
    assert names <= words
    assert "…" not in text


def test_the_list_of_commands_is_not_cut() -> None:
    group = typer.main.get_command(app)
    text = group.get_help(click.Context(group, info_name="sarsteer", terminal_width=80, max_content_width=80))
    assert "..." not in text.partition("Commands:")[2]


def test_python_m_sarsteer() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "sarsteer", "evaluate", "--help"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: sarsteer evaluate")
    assert "[/VARIANT]" in done.stdout


def test_completion_is_offered() -> None:
    assert any("--show-completion" in option.opts for option in typer.main.get_command(app).params)
