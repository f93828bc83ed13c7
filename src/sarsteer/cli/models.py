"""``sarsteer models``: the registered model families. ``docs/models.md`` contains the same table."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.output import console, print_json
from sarsteer.cli.tables import print_facts

API = {
    "family": "behind an API",
    "checkpoints": ["openai/gpt-audio", "openai/gpt-4o-audio-preview", "any OpenAI-compatible server"],
    "tested": "a server on loopback, written for the tests",
    "engines": ["api"],
    "clips": "",
    "limits": "activations are not available: use a prompt defense, steering is not possible",
}
GENERIC = {
    "family": "any other",
    "checkpoints": ["any decoder that is found, with a processor that has a chat template"],
    "tested": "real classes and processors of several families above, through the same code",
    "engines": ["transformers"],
    "clips": "",
    "limits": "refused with a reason if its layers are not found or steering cannot be proven",
}


def models(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/models.md.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the model families: checkpoints, engines, how each was tested, and limits."""
    rows = table_rows()
    if as_json:
        print_json(rows)
    elif markdown:
        print(as_markdown(rows))
    else:
        for row in rows:
            console.print(f"[bold]{row['family']}[/] [dim]{', '.join(row['engines'])}[/]", highlight=False)
            for name in row["checkpoints"]:
                console.print(f"  {name}", highlight=False, soft_wrap=True)
            if limits := "; ".join(part for part in (row["clips"], row["limits"]) if part):
                print_facts([("  limits:", limits)])
        console.print("[dim]How they were tested: sarsteer models --markdown. Other models: sarsteer doctor MODEL[/]")


def table_rows() -> list[dict[str, Any]]:
    """One row per family, then models behind an API and all others."""
    from sarsteer.models.family import families

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
    lines = ["| family | checkpoints | tested here on | engines | limits |", "|---|---|---|---|---|"]
    for row in rows:
        names = "<br>".join(f"`{name}`" if "/" in name else name for name in row["checkpoints"])
        limits = "; ".join(part for part in (row["clips"], row["limits"]) if part)
        lines.append(f"| {row['family']} | {names} | {row['tested']} | {', '.join(row['engines'])} | {limits} |")
    return "\n".join(lines)


def _clips(window: float | None, least: int, most: int | None) -> str:
    limits = [f"clips of at most {window:g} s"] if window else []
    if least == most == 1:
        limits.append("exactly one clip per conversation")
    elif most is not None:
        limits.append(f"at most {most} clips per conversation")
    return ", ".join(limits)
