"""Errors that a user can fix, in the form that Inspect prints in one line and without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sarsteer.errors import SarsteerError


@contextmanager
def prerequisite_errors() -> Iterator[None]:
    """Turn a ``SarsteerError`` into Inspect's ``PrerequisiteError``."""
    from inspect_ai._util.error import PrerequisiteError

    try:
        yield
    except SarsteerError as error:
        raise PrerequisiteError(str(error).replace("[", "\\[")) from error
