"""The studio's colors and type: those of the reports."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr
from markupsafe import Markup

from sarsteer.report.style import FONTS, MONO, embedded_style
from sarsteer.studio.panels import PAGE

_COLORS = {
    "--paper": ("body_background_fill", "background_fill_primary", "input_background_fill_focus"),
    "--raised": (
        "block_background_fill", "background_fill_secondary", "input_background_fill", "panel_background_fill",
        "button_secondary_background_fill", "checkbox_label_background_fill", "block_label_background_fill",
        "checkbox_background_color", "table_even_background_fill",
    ),
    "--note": (
        "checkbox_label_background_fill_selected", "checkbox_label_background_fill_hover",
        "button_secondary_background_fill_hover",
    ),
    "--ink": (
        "body_text_color", "block_title_text_color", "block_label_text_color", "checkbox_label_text_color",
        "checkbox_label_text_color_selected", "button_secondary_text_color",
    ),
    "--soft": ("body_text_color_subdued", "block_info_text_color", "input_placeholder_color"),
    "--line": (
        "border_color_primary", "block_border_color", "input_border_color", "button_secondary_border_color",
        "checkbox_border_color", "checkbox_label_border_color",
    ),
    "--accent": (
        "slider_color", "link_text_color", "link_text_color_hover", "color_accent", "border_color_accent",
        "input_border_color_focus", "checkbox_background_color_selected", "checkbox_border_color_selected",
        "button_primary_background_fill", "button_primary_border_color", "loader_color",
    ),
    "--paper ": ("button_primary_text_color", "button_primary_text_color_hover"),
}  # fmt: skip


def theme() -> Any:
    """Gradio's base theme in the reports' colors. No font is loaded."""
    base = gr.themes.Base(font=FONTS, font_mono=MONO, radius_size="sm")
    values = {name: f"var({color.strip()})" for color, names in _COLORS.items() for name in names}
    values["button_primary_background_fill_hover"] = "color-mix(in srgb, var(--accent) 85%, var(--ink))"
    values["block_label_border_color"] = "transparent"
    known = vars(base)
    both = {f"{name}{dark}": value for name, value in values.items() for dark in ("", "_dark")}
    base.set(**{name: value for name, value in both.items() if name in known})
    base._stylesheets = []
    return base


def head() -> Markup:
    """The style, for the page's head."""
    own = Markup(files("sarsteer.studio").joinpath("templates/studio.css").read_text(encoding="utf-8"))
    return Markup("<style>%s\n%s</style>") % (embedded_style(f".{PAGE}", ".dark"), own)
