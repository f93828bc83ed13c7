"""What the demo tells users to run next are commands that exist."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import typer

from sarsteer.cli.demo import print_next_steps
from sarsteer.cli.main import app
from sarsteer.demo.next_steps import next_steps, next_steps_section

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_step_is_a_command_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    print_next_steps()
    shown = capsys.readouterr().out.splitlines()
    page = str(next_steps_section().content)
    names = []
    for _, command in next_steps():
        assert f"  {command}" in shown, "in one piece"
        assert f"<code>{command}</code>" in page
        words = shlex.split(command)
        name = words[words.index(next(w for w in words if w in COMMANDS or w == "--help"))]
        names.append(name)
        if name in COMMANDS:
            known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known
    assert names == ["doctor", "calibrate", "respond", "evaluate", "--help"]


def test_the_program_is_named_as_it_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """make demo installs into .venv, which is not on the PATH."""
    script = tmp_path / ".venv" / "bin" / "sarsteer"
    script.parent.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(script.parent / "python"))
    monkeypatch.chdir(tmp_path)
    assert next_steps()[0][1] == f"{script.parent / 'python'} -m sarsteer doctor MODEL"
    script.touch()
    assert next_steps()[0][1] == ".venv/bin/sarsteer doctor MODEL"
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    assert next_steps()[0][1] == "sarsteer doctor MODEL"
