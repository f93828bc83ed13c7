"""The HTML of the studio's outputs. Every value is escaped: models, files and visitors write parts of them."""

from __future__ import annotations

from markupsafe import Markup

from sarsteer.errors import SarsteerError
from sarsteer.judges.keywords import is_refusal
from sarsteer.report.svg import tag
from sarsteer.server.errors import ApiError

WAITING = "…"
PAGE = "sarsteer-page"
"""The class of everything that has the reports' style."""


def page(*parts: str) -> str:
    """Parts in the reports' style."""
    return str(tag("div", *parts, class_=PAGE))


def answer_panel(title: str, text: str | None = None, *, done: bool = False, about: str = "", kind: str = "") -> str:
    """One answer, finished or not.

    Args:
        title: whose answer it is.
        text: the answer so far; None before there is one.
        done: whether it is complete.
        about: a line below it.
        kind: ``undefended`` or ``defended``, for its color.

    """
    chips = [tag("span", "refusal", class_="chip good")] if done and text and is_refusal(text) else []
    head = tag("h3", tag("span", title), *chips, class_="panel-title")
    words = tag(
        "p",
        text if text is not None else "No answer yet.",
        *([] if done or text is None else [tag("span", "▍", class_="caret", aria_hidden="true")]),
        class_="words" if text is not None else "words none",
    )
    # read out once, when it is complete
    live = tag("div", words, aria_live="polite", aria_busy="false" if done or text is None else "true")
    line = [tag("p", about, class_="why")] if about else []
    return page(tag("div", tag("section", head, live, *line, class_=f"panel {kind}"), class_="answers"))


def failed_panel(title: str, error: Exception | str, kind: str = "") -> str:
    """An error in place of an answer."""
    head = tag("h3", tag("span", title), tag("span", "no answer", class_="chip odd"), class_="panel-title")
    text = tag("p", explanation(error), class_="words", role="alert")
    return page(tag("div", tag("section", head, text, class_=f"panel edge-odd {kind}"), class_="answers"))


def notice(text: str, *, warning: bool = False) -> str:
    """A remark; a warning is read out at once."""
    kind, role = ("notice warning", "alert") if warning else ("notice", "status")
    return page(tag("p", text, class_=kind, role=role))


def figure(caption: str, *parts: str) -> Markup:
    """A chart with its caption above."""
    return tag("figure", tag("figcaption", caption), *parts)


def explanation(error: Exception | str) -> str:
    """What a visitor reads about an error. Only expected errors keep their message."""
    if isinstance(error, (ApiError, SarsteerError)):
        text = error.message if isinstance(error, ApiError) else str(error)
    elif isinstance(error, str):
        text = error
    else:
        return "Something went wrong, so nothing was answered; the studio's log says more."
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
