"""Patches of vLLM's workers: after a worker has its device, it is prepared as ``additional_config`` says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sarsteer.vllm.settings import KEY, settings_of
from sarsteer.vllm.worker.steered_worker import SteeredWorker
from sarsteer.vllm.wrapper import wrap


def install(capture: Callable[[Any], object]) -> None:
    """Patch this process's workers, before they are created.

    Args:
        capture: called with a worker whose configuration says that calibration reads its activations.

    """
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    wrap(WorkerWrapperBase, "init_device", functools.partial(_init_device, capture))


def _init_device(capture: Callable[[Any], object], original: Any, wrapper: Any) -> None:
    original(wrapper)
    config = wrapper.vllm_config
    settings = settings_of(config)
    if settings is not None:
        SteeredWorker(wrapper.worker, settings)
    elif (config.additional_config or {}).get(KEY):
        capture(wrapper.worker)
