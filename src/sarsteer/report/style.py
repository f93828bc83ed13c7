"""Colors and type of everything that shows results in a browser: the reports and the studio."""

from __future__ import annotations

from markupsafe import Markup

from sarsteer.report.environment import asset

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def page_style() -> Markup:
    """The style of a page, in the reader's color scheme."""
    return Markup(
        ":root {\n  color-scheme: light dark;\n%s}\n@media (prefers-color-scheme: dark) {\n  :root {\n%s  }\n}\n%s"
    ) % (asset("light.css"), asset("dark.css"), asset("report.css"))


def embedded_style(where: str, dark: str) -> Markup:
    """The same style for parts of a page of another origin, such as an app.

    Args:
        where: selector of the elements that contain the parts; nothing outside of them changes.
        dark: selector that matches the page's root while it is dark.

    """
    return Markup(":root { color-scheme: light; %s}\n%s { color-scheme: dark; %s}\n%s {\n%s}\n") % (
        asset("light.css"), Markup(dark), asset("dark.css"), Markup(where), asset("report.css"),
    )  # fmt: skip
