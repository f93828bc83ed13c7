"""The decisions of finished requests as JSON Lines, for ``sarsteer drift`` and ``sarsteer threshold``.

A thread writes them, so that a step waits neither for the device nor for the disk. Lines are shorter than a block, and
appended in one write each: engines of one node may share a file.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

_NAMES = ("opening", "score", "distance", "out_of_distribution")


class DecisionLog:
    """Appends decisions to a file until the process ends.

    Args:
        path: the file; its folder must exist.

    Raises:
        OSError: the file cannot be opened.

    """

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path).open("a", encoding="utf-8", buffering=1)
        self._queue: queue.Queue[tuple[Sequence[dict[str, Any]], torch.Tensor, Any]] = queue.Queue()
        threading.Thread(target=self._write, name="sarsteer decision log", daemon=True).start()

    def add(self, requests: Sequence[dict[str, Any]], rows: torch.Tensor) -> None:
        """Write one line for each request.

        Args:
            requests: what else the line has, such as the request's id.
            rows: ``[n, 4]`` of ``WorkerGates.decisions``, which do not change any more.

        """
        host = rows.to("cpu", non_blocking=True)
        copied = None
        if rows.is_cuda:
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._queue.put((requests, host, copied))

    def flush(self) -> None:
        """Wait until everything is written."""
        self._queue.join()

    def _write(self) -> None:
        while True:
            requests, rows, copied = self._queue.get()
            try:
                if copied is not None:
                    copied.synchronize()
                for request, values in zip(requests, rows.tolist(), strict=True):
                    named = dict(zip(_NAMES, values, strict=True))
                    decision = {name: value if math.isfinite(value) else None for name, value in named.items()}
                    decision["out_of_distribution"] = bool(named["out_of_distribution"])
                    self._file.write(json.dumps({**request, **decision}) + "\n")
            except (OSError, RuntimeError) as error:
                logger.warning("sarsteer: decisions were not logged: %s", error)
            finally:
                self._queue.task_done()
