"""Hooks of the documentation site: pages made from the code, and links that lead out of ``docs/``."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.structure.files import File

from sarsteer import errors
from sarsteer.cli.main import app

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./|dev/)[^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from the code, and the changes."""
    pages = {
        "reference/commands.md": commands_page(),
        "reference/errors.md": errors_page(),
        "changes.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files that are not part of the site lead to the repository, or become plain text without one."""
    repository = str(config.repo_url or "").rstrip("/")
    folder = Path("docs") / Path(page.file.src_uri).parent

    def outward(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        path, _, anchor = target.partition("#")
        place = os.path.normpath(folder / path).replace(os.sep, "/")
        if place.startswith("docs/") and not place.startswith("docs/dev/"):
            return match.group(0)
        if not repository:
            return text
        return f"{mark}[{text}]({repository}/blob/main/{place}{'#' + anchor if anchor else ''})"

    return LINK.sub(outward, markdown)


def commands_page() -> str:
    """``--help`` of every command, from the parsers."""
    group = typer.main.get_command(app)
    lines = ["# Commands", "", "The text of `--help`, as the parsers print it.", ""]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        context = click.Context(command, info_name=f"sarsteer {name}", terminal_width=88, max_content_width=88)
        lines += [f"## sarsteer {name}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


def errors_page() -> str:
    """Every error by name, with its base and its first sentence, from ``sarsteer/errors.py``."""
    lines = [
        "# Errors",
        "",
        "Errors that you can fix. A message is one line: what is wrong, with the value, and what to do.",
        "Catch `sarsteer.SarsteerError` for all of them. The command line prints the message and exits with 2; with",
        "`--json`, `type` is the name below.",
        "",
    ]
    for name, cls in vars(errors).items():
        if inspect.isclass(cls) and cls.__module__ == errors.__name__:
            bases = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
            lines += [f"## {name}", "", inspect.getdoc(cls).split("\n\n")[0], "", f"Extends {bases}.", ""]
    return "\n".join(lines)
