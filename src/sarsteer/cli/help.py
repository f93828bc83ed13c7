"""``--help`` whose names can be copied: lines break between words, never inside ``llama-guard`` or ``--no-plot``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

_HYPHEN = "\N{NON-BREAKING HYPHEN}"


def _whole(text: str) -> str:
    return text.replace("-", _HYPHEN)


def _format(command: Any, context: Any) -> str:
    """The help of ``command``, from a formatter that does not break lines at hyphens."""

    class Formatter(context.formatter_class):  # type: ignore[misc]
        def write_text(self, text: str) -> None:
            super().write_text(_whole(text))

        def write_dl(self, rows: Any, *arguments: Any, **options: Any) -> None:
            super().write_dl([(_whole(name), _whole(text)) for name, text in rows], *arguments, **options)

    formatter = Formatter(width=context.terminal_width, max_width=context.max_content_width)
    command.format_help(context, formatter)
    return str(formatter.getvalue()).rstrip("\n").replace(_HYPHEN, "-")


class Command(TyperCommand):
    """A command of ``sarsteer``."""

    def get_help(self, ctx: Any) -> str:
        """The text of ``--help``."""
        return _format(self, ctx)


class Group(TyperGroup):
    """``sarsteer`` itself."""

    def get_help(self, ctx: Any) -> str:
        """The text of ``--help``."""
        return _format(self, ctx)
