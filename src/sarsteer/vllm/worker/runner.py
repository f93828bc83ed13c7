"""Observe a worker's model runner, whichever of vLLM's two it is."""

from __future__ import annotations

from typing import Any

from sarsteer.vllm.worker.observer import RunnerObserver


def observe_runner(worker: Any, observer: RunnerObserver) -> None:
    """Call ``observer`` for the requests and steps of the worker's model runner."""
    if worker.use_v2_model_runner:
        from sarsteer.vllm.worker.runner_v2 import observe
    else:
        from sarsteer.vllm.worker.runner_v1 import observe
    observe(worker.model_runner, observer)
