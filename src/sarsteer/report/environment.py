"""Page templates. All values are escaped, because models and datasets write parts of them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from sarsteer.report import numbers

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment(package: str) -> Environment:
    """The templates that ship in ``package``, with filters that write numbers."""
    from jinja2 import Environment, PackageLoader

    loaded = Environment(
        loader=PackageLoader(package, "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    loaded.filters |= {
        name: getattr(numbers, name) for name in ("percent", "signed", "value", "interval", "counted", "whole")
    }
    return loaded


def asset(name: str) -> Markup:
    """The text of a style or a script among the templates, as it is."""
    loader = environment("sarsteer.report").loader
    assert loader is not None
    return Markup(loader.get_source(environment("sarsteer.report"), name)[0])
