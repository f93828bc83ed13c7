"""``sarsteer models``: the families that are known, from the registry. ``docs/models.md`` holds its table."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from sarsteer.cli.output import console, print_json

API = {
    "family": "behind an API",
    "checkpoints": ["openai/gpt-audio", "openai/gpt-4o-audio-preview", "any OpenAI-compatible server"],
    "tested": "a server on loopback, written for the tests",
    "engines": ["api"],
    "clips": "",
    "limits": "shows no activations: defended by a prompt, never steered",
}
GENERIC = {
    "family": "any other",
    "checkpoints": ["a decoder that can be found, a processor with a chat template"],
    "tested": "real classes and processor of several of the above, through the same code",
    "engines": ["transformers"],
    "clips": "",
    "limits": "refused, with what is missing, where its layers are not found or steering cannot be proven",
}


def models(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/models.md.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the families of models: checkpoints, how each was tested, where it runs, what to know."""
    rows = table_rows()
    if as_json:
        print_json(rows)
    elif markdown:
        print(as_markdown(rows))
    else:
        table = Table(header_style="bold", box=None, pad_edge=False)
        for title in ("family", "checkpoints", "runs on", "know"):
            table.add_column(title, overflow="fold")
        for row in rows:
            know = "; ".join(part for part in (row["clips"], row["limits"]) if part)
            table.add_row(row["family"], "\n".join(row["checkpoints"]), ", ".join(row["engines"]), know)
        console.print(table)
        console.print("[dim]how each was tested: sarsteer models --markdown; any other: sarsteer doctor MODEL[/]")


def table_rows() -> list[dict[str, Any]]:
    """One row a family, then models behind an API and all others."""
    from sarsteer.models.families.registry import families

    rows = [
        {
            "family": family.name,
            "checkpoints": list(family.checkpoints),
            "tested": family.tested,
            "engines": list(family.engines),
            "clips": _clips(family.window_seconds, family.min_clips, family.max_clips),
            "limits": family.limits,
        }
        for family in families()
    ]
    return [*rows, API, GENERIC]


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table for the documentation."""
    lines = ["| family | checkpoints | tested here on | runs on | know |", "|---|---|---|---|---|"]
    for row in rows:
        names = "<br>".join(f"`{name}`" if "/" in name else name for name in row["checkpoints"])
        know = "; ".join(part for part in (row["clips"], row["limits"]) if part)
        lines.append(f"| {row['family']} | {names} | {row['tested']} | {', '.join(row['engines'])} | {know} |")
    return "\n".join(lines)


def _clips(window: float | None, least: int, most: int | None) -> str:
    said = [f"clips of at most {window:g} s"] if window else []
    if least == most == 1:
        said.append("exactly one clip a conversation")
    elif most is not None:
        said.append(f"at most {most} clips a conversation")
    return ", ".join(said)
