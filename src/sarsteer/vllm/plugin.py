"""What vLLM calls in each of its processes. Without configuration nothing changes but one line in the debug log."""

from __future__ import annotations

import logging
import os

from sarsteer.vllm.versions import check_version, is_tested

logger = logging.getLogger(__name__)


def register() -> None:
    """Make this process's vLLM able to steer; may be called any number of times.

    Engine cores and workers are prepared whether or not this process's environment names a steering file: they act on
    the configuration that the front end sends them, which also reaches nodes that do not share its environment.

    Raises:
        SteeringError: steering is configured and this vLLM was not tested with it, or a setting is wrong.

    """
    configured = bool(os.environ.get("SARSTEER_STEERING"))
    if configured:
        check_version()
    elif not is_tested():
        logger.debug("sarsteer: this vLLM was not tested and no steering is configured; nothing was changed")
        return
    from sarsteer.vllm import engine_core, front_end, worker

    worker.install()
    engine_core.install()
    front_end.install()
    if not configured:
        logger.debug("sarsteer: SARSTEER_STEERING is not set; requests are answered unsteered")
