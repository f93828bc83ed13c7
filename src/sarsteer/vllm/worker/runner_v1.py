"""Observe vLLM's first model runner (``v1/worker/gpu_model_runner.py``, the default on CPUs)."""

from __future__ import annotations

from typing import Any

from sarsteer.vllm.worker.observer import RunnerObserver
from sarsteer.vllm.wrapper import wrap


def observe(runner: Any, observer: RunnerObserver) -> None:
    """Call ``observer`` as requests come and go, and in each step once its batch is final.

    ``_update_states`` also runs in steps without tokens, in which an engine that becomes idle reports finished
    requests. ``_prepare_inputs`` runs in the others, after requests were added, removed and reordered, and receives
    how many tokens each has in this step.
    """

    def update(original: Any, scheduler_output: Any) -> Any:
        observer.remove(scheduler_output.finished_req_ids)
        for new in scheduler_output.scheduled_new_reqs:
            observer.add(new.req_id, new.sampling_params)
        return original(scheduler_output)

    def prepare(original: Any, scheduler_output: Any, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        count = batch.num_reqs
        observer.step(
            batch.req_ids[:count], batch.num_computed_tokens_cpu[:count], scheduled, batch.num_prompt_tokens[:count]
        )
        return original(scheduler_output, scheduled, *args, **kwargs)

    wrap(runner, "_update_states", update)
    wrap(runner, "_prepare_inputs", prepare)
