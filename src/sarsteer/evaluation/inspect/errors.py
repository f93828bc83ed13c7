"""Errors that a user can mend, as Inspect tells them: one line and no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sarsteer.errors import SarsteerError


@contextmanager
def told_by_inspect() -> Iterator[None]:
    """Turn an error of ours into the kind that ``inspect eval`` prints plainly."""
    from inspect_ai._util.error import PrerequisiteError

    try:
        yield
    except SarsteerError as error:
        raise PrerequisiteError(str(error).replace("[", "\\[")) from error
