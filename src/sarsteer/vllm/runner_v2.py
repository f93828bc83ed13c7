"""Follow vLLM's second model runner (``v1/worker/gpu/model_runner.py``; the default where Triton is).

Written against the source of vLLM 0.32; its kernels need Triton, so that no whole run of it was possible on a CPU.
"""

from __future__ import annotations

from typing import Any

from sarsteer.vllm.patching import wrap
from sarsteer.vllm.requests import Follower


def follow(runner: Any, follower: Follower) -> None:
    """Tell ``follower`` of each step from the batch that ``prepare_inputs`` returns.

    After a preemption this runner is given a request anew, with the tokens it had answered: its ``prefill_len`` grows,
    its ``prompt_len`` stays, and only the latter decides.
    """

    def add(original: Any, scheduler_output: Any) -> Any:
        for new in scheduler_output.scheduled_new_reqs:
            follower.add(new.req_id, new.sampling_params)
        return original(scheduler_output)

    def finish(original: Any, scheduler_output: Any) -> Any:
        follower.remove(scheduler_output.finished_req_ids)
        return original(scheduler_output)

    def prepare(original: Any, *args: Any, **kwargs: Any) -> Any:
        batch = original(*args, **kwargs)
        count = batch.num_reqs
        follower.step(
            batch.req_ids[:count],
            batch.num_computed_tokens_np[:count],
            batch.num_scheduled_tokens[:count],
            runner.req_states.prompt_len.np[batch.idx_mapping_np[:count]],
        )
        return batch

    wrap(runner, "add_requests", add)
    wrap(runner, "finish_requests", finish)
    wrap(runner, "prepare_inputs", prepare)
