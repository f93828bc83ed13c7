"""What to do after the demo: the commands for another model, on the terminal and on the page."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from markupsafe import Markup

from sarsteer.report.html import Section

TITLE = "Next: your own model"


def next_steps() -> list[tuple[str, str]]:
    """What a user can do next, and the command for it, in order."""
    sarsteer = _program()
    return [
        ("Check that your model can be steered", f"{sarsteer} doctor MODEL"),
        (
            "Calibrate it on pairs of harmful and safe clips",
            f"{sarsteer} calibrate MODEL --pairs PAIRS.jsonl --out steering.safetensors",
        ),
        (
            "Answer a clip with and without the defense",
            f"{sarsteer} respond MODEL --audio CLIP.wav --steering steering.safetensors --undefended",
        ),
        (
            "Measure it on a benchmark",
            f"{sarsteer} evaluate MODEL --benchmark SPEC --steering steering.safetensors",
        ),
        ("List all commands", f"{sarsteer} --help"),
    ]


def next_steps_section() -> Section:
    """The same for the page."""
    rows = Markup("").join(
        Markup("<li>{}: <code>{}</code></li>").format(what, command) for what, command in next_steps()
    )
    return Section("next", TITLE, Markup("<ol>{}</ol>").format(rows))


def _program() -> str:
    """How to run ``sarsteer`` from this shell: make installs it into .venv, which need not be on the PATH."""
    if shutil.which("sarsteer") is not None:
        return "sarsteer"
    script = Path(sys.executable).parent / "sarsteer"
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -m sarsteer"
    inside = script.is_relative_to(Path.cwd())
    return shlex.quote(str(script.relative_to(Path.cwd()) if inside else script))
