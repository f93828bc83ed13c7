"""Progress of work that happens once, inside of a library call, such as filling a cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str) -> Iterator[Callable[[float], None]]:
    """A function that takes the share that is done, from 0 to 1.

    It draws a bar on standard error; if that is not a terminal, the title is printed once.
    """
    if not sys.stderr.isatty():
        print(title, file=sys.stderr, flush=True)
        yield lambda share: None
        return
    from rich.console import Console
    from rich.errors import LiveError
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    try:
        bar.start()
    except LiveError:  # the caller draws a bar already
        bar.disable = True
    try:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.update(task, completed=share)
    finally:
        bar.stop()
