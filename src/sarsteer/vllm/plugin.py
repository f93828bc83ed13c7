"""Patch vLLM in one process, whichever it is. Without configuration nothing changes."""

from __future__ import annotations

import logging
import os

from sarsteer.vllm.versions import check_version, is_tested

logger = logging.getLogger(__name__)

_installed = False


def install() -> None:
    """Patch vLLM in this process so that it can steer. Later calls do nothing.

    Engine cores and workers are patched even if their environment names no steering file: they act on the
    configuration that the front end sends them, which also reaches nodes with another environment.

    Raises:
        SteeringError: steering is configured and this vLLM was not tested, or lacks a function that is patched.

    """
    configured = bool(os.environ.get("SARSTEER_STEERING", "").strip())
    if configured:
        check_version()
    elif not is_tested():
        logger.debug("sarsteer: this vLLM was not tested and no steering is configured; nothing was changed")
        return
    from sarsteer.vllm.calibration.capture import CapturingWorker
    from sarsteer.vllm.engine import patches as engine
    from sarsteer.vllm.frontend import patches as frontend
    from sarsteer.vllm.worker import patches as worker

    worker.install(capture=CapturingWorker)
    engine.install()
    frontend.install()
    global _installed
    _installed = True
    if not configured:
        logger.debug("sarsteer: SARSTEER_STEERING is not set; requests are answered unsteered")


def is_installed() -> bool:
    """Whether ``install`` patched this process."""
    return _installed
