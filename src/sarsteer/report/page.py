"""Pages made from templates: everything that is filled in is escaped, since models and datasets write parts of it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates(package: str) -> Environment:
    """The templates that ship in ``package``."""
    from jinja2 import Environment, PackageLoader

    return Environment(
        loader=PackageLoader(package, "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
