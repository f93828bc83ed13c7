"""Observe vLLM's second model runner (``v1/worker/gpu/model_runner.py``, the default where Triton is available).

Written against the source of vLLM 0.32. Its kernels need Triton, so it could not be run as a whole on a CPU.
"""

from __future__ import annotations

from typing import Any

from sarsteer.vllm.worker.observer import RunnerObserver
from sarsteer.vllm.wrapper import wrap


def observe(runner: Any, observer: RunnerObserver) -> None:
    """Call ``observer`` in each step with the batch that ``prepare_inputs`` returns.

    After a preemption this runner receives the request again, with the tokens it had answered: its ``prefill_len``
    grows and its ``prompt_len`` stays, so only ``prompt_len`` is used.
    """

    def add(original: Any, scheduler_output: Any) -> Any:
        for new in scheduler_output.scheduled_new_reqs:
            observer.add(new.req_id, new.sampling_params)
        return original(scheduler_output)

    def finish(original: Any, scheduler_output: Any) -> Any:
        observer.remove(scheduler_output.finished_req_ids)
        return original(scheduler_output)

    def prepare(original: Any, *args: Any, **kwargs: Any) -> Any:
        batch = original(*args, **kwargs)
        count = batch.num_reqs
        observer.step(
            batch.req_ids[:count],
            batch.num_computed_tokens_np[:count],
            batch.num_scheduled_tokens[:count],
            runner.req_states.prompt_len.np[batch.idx_mapping_np[:count]],
        )
        return batch

    wrap(runner, "add_requests", add)
    wrap(runner, "finish_requests", finish)
    wrap(runner, "prepare_inputs", prepare)
