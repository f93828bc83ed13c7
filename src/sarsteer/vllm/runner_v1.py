"""Follow vLLM's first model runner (``v1/worker/gpu_model_runner.py``; on CPUs the default)."""

from __future__ import annotations

from typing import Any

from sarsteer.vllm.patching import wrap
from sarsteer.vllm.requests import Follower


def follow(runner: Any, follower: Follower) -> None:
    """Tell ``follower`` of requests as they come and go, and of each step once its batch is settled.

    ``_update_states`` also runs in the steps of no token in which an engine that falls idle tells what has finished.
    ``_prepare_inputs`` runs in the others, after requests were added, removed and reordered, and is given how many
    tokens each has in this step.
    """

    def update(original: Any, scheduler_output: Any) -> Any:
        follower.remove(scheduler_output.finished_req_ids)
        for new in scheduler_output.scheduled_new_reqs:
            follower.add(new.req_id, new.sampling_params)
        return original(scheduler_output)

    def prepare(original: Any, scheduler_output: Any, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        count = batch.num_reqs
        follower.step(
            batch.req_ids[:count], batch.num_computed_tokens_cpu[:count], scheduled, batch.num_prompt_tokens[:count]
        )
        return original(scheduler_output, scheduled, *args, **kwargs)

    wrap(runner, "_update_states", update)
    wrap(runner, "_prepare_inputs", prepare)
