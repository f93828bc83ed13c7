"""The audit log: one JSON line per request, in files that rotate. Without content, unless the operator asks for it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Any

from sarsteer.errors import SarsteerError

MAX_BYTES = 50 * 2**20
FILES = 10


class AuditLog:
    """Writes records in a thread of its own, so that a slow disk delays no answer.

    Args:
        path: the current file; older ones get the suffixes .1 to .9.
        failed: called for each record that cannot be written, as on a full disk. Answers continue.

    Raises:
        SarsteerError: the file cannot be opened.

    """

    def __init__(self, path: Path, failed: Callable[[], None]) -> None:
        self.failing = False
        try:
            # only its owner may read it, also before the first record
            os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
            handler = _Handler(path, self._failed, self._succeeded)
        except OSError as error:
            raise SarsteerError(
                f"the audit log cannot be written ({error.strerror or error}); choose another file", place=str(path)
            ) from None
        self._report_failure = failed
        records: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._logger = logging.Logger("sarsteer.audit")
        self._logger.addHandler(QueueHandler(records))
        self._listener = QueueListener(records, handler)
        self._listener.start()
        self._handler = handler

    def write(self, record: Mapping[str, Any]) -> None:
        """Queue one record; ``time`` is added."""
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), **record}
        self._logger.info(json.dumps(line, ensure_ascii=False, default=str))

    def close(self) -> None:
        """Write what is queued."""
        self._listener.stop()
        with contextlib.suppress(OSError):  # the disk is still full; that was reported for each record
            self._handler.close()

    def _failed(self) -> None:
        if not self.failing:
            logging.getLogger(__name__).error("audit records cannot be written; answers continue", exc_info=True)
        self.failing = True
        self._report_failure()

    def _succeeded(self) -> None:
        self.failing = False


class _Handler(RotatingFileHandler):
    def __init__(self, path: Path, failed: Callable[[], None], succeeded: Callable[[], None]) -> None:
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=FILES - 1, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(message)s"))
        self._failed, self._succeeded = failed, succeeded
        self._good = True

    def _open(self) -> Any:
        return open(self.baseFilename, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))

    def emit(self, record: logging.LogRecord) -> None:
        self._good = True
        super().emit(record)
        if self._good:
            self._succeeded()

    def handleError(self, record: logging.LogRecord) -> None:
        self._good = False
        self._failed()
