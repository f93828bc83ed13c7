"""Issue 13, item 8: what a request may ask for, on a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer.vllm.request_options import CHAT, NEVER, OPTIONAL, SAMPLING
from tests.vllm.conftest import ALPHAS, TIMES, TOKENS, K, Request, engine
from tests.vllm.test_engine import Answers, sampling

ALPHA = ALPHAS[-1]
FIXED = {"SARSTEER_K": str(K), "SARSTEER_ALPHA": str(ALPHA)}


def test_the_lists_name_options_of_this_vllm() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.sampling_params import SamplingParams

    fields, chat = set(SamplingParams.__struct_fields__), set(ChatCompletionRequest.model_fields)
    assert fields >= SAMPLING
    assert chat >= CHAT
    for name in (*OPTIONAL, *NEVER):
        assert name.startswith("/") or name in fields | chat | {"control_tokens"}, f"{name} is no option of this vLLM"
    decided = {*SAMPLING, *CHAT, *OPTIONAL, *NEVER}
    assert {name for name in fields | chat if not name.startswith("_")} <= decided, "decide about these options"


def test_every_other_option_is_refused_by_the_engine(steering_file: Path, requests: list[Request]) -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams

    values = {
        "prompt_logprobs": 1,
        "prompt_logprob_token_ids": [[1]],
        "logit_bias": {5: -100.0},
        "allowed_token_ids": [5, 6],
        "bad_words": ["sorry"],
        "structured_outputs": StructuredOutputsParams(choice=["Sure"]),
        "ignore_eos": True,
        "min_tokens": 8,
        "trace_decode_token_ids": [5, 6],
        "extra_args": {"kv_transfer_params": {"do_remote_prefill": True}},
        "thinking_token_budget": 1,
    }
    with engine(steering_file, FIXED) as llm:
        for name, value in values.items():
            params = SamplingParams(max_tokens=16, **{name: value})
            with pytest.raises(VLLMValidationError, match="this server is steered"):
                llm.generate([requests[0].prompt], params, use_tqdm=False)


def test_copies_and_priorities_are_steered_and_gated_alike(
    gated: sarsteer.Steering,
    requests: list[Request],
    expected: Answers,
    gated_expected: Answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``n`` > 1, and preemption by priority, with so few blocks that requests of low priority are preempted."""
    from vllm import SamplingParams
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted: list[str] = []
    preempt = Scheduler._preempt_request

    def counting(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        preempted.append(request.request_id)
        return preempt(self, request, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "_preempt_request", counting)
    always = gated.with_defaults(alpha=ALPHA, k=K, gate=False).save(tmp_path / "always.safetensors")
    own = gated.with_defaults(alpha=TIMES * ALPHA, k=K).save(tmp_path / "gated.safetensors")
    count = 10
    with engine(
        f"gated={own},always={always}",
        scheduling_policy="priority",
        max_num_batched_tokens=64,
        max_num_seqs=16,
        num_gpu_blocks_override=20,
        block_size=32,
    ) as llm:
        names = [name for name in ("gated", "always") for _ in range(count)]
        outputs = llm.generate(
            [request.prompt for request in requests[:count]] * 2,
            [
                SamplingParams(n=2, top_k=1, max_tokens=TOKENS, extra_args={"sarsteer_set": name})  # as greedy
                for name in names
            ],
            priority=[(7 * i) % len(names) for i in range(len(names))],
            use_tqdm=False,
        )
    assert preempted, "nothing was preempted: the test proves nothing about priorities"
    answers = [[list(one.token_ids) for one in output.outputs] for output in outputs]
    wanted = [*gated_expected[ALPHA][:count], *expected[ALPHA][:count]]
    assert answers == [[tokens, tokens] for tokens in wanted]


@pytest.mark.parametrize("checked", [True, False])
def test_prompt_logprobs_do_not_show_the_unsteered_answer(
    checked: bool, steering_file: Path, requests: list[Request], expected: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt is not steered: a client that could read its log-probabilities reads what the bare model would say."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    from sarsteer.vllm.frontend import requests as frontend

    number = next(i for i, tokens in enumerate(expected[ALPHA]) if tokens[0] != expected[0.0][i][0])
    bare, request = expected[0.0][number], requests[number]
    if not checked:
        monkeypatch.setattr(frontend, "refused_sampling", lambda *_: None)
    prompt = {**request.prompt, "prompt": request.prompt["prompt"] + "Hello"}  # one token more than the real prompt
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    with engine(steering_file, FIXED) as llm:
        (answer,) = llm.generate([request.prompt], sampling(), use_tqdm=False)
        assert list(answer.outputs[0].token_ids) == expected[ALPHA][number], "the answer itself is steered"
        if checked:
            with pytest.raises(VLLMValidationError, match="prompt_logprobs is refused"):
                llm.generate([prompt], params, use_tqdm=False)
            return
        (output,) = llm.generate([prompt], params, use_tqdm=False)
        position = len(answer.prompt_token_ids)
        most_likely = min(output.prompt_logprobs[position].items(), key=lambda pair: pair[1].rank)[0]
    assert most_likely == bare[0] != expected[ALPHA][number][0], "nothing leaks: the check is not needed"


def test_a_text_that_is_continued_is_steered_from_its_last_token(
    embedded: sarsteer.AudioLanguageModel,
    steering: sarsteer.Steering,
    steering_file: Path,
    requests: list[Request],
) -> None:
    """What an operator gets who allows ``continue_final_message`` or ``/v1/completions``, as in transformers."""
    beginning = "I am"
    ids = torch.tensor([embedded.tokenizer(beginning, add_special_tokens=False)["input_ids"]])
    wanted = []
    with steering.on(embedded, alpha=ALPHA, k=K):
        for request in requests[:4]:
            batch = embedded.collate([request.prepared])
            batch["input_ids"] = torch.cat([batch["input_ids"], ids], 1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            embeds = embedded.module.get_input_embeddings()(ids).detach()
            batch["inputs_embeds"] = torch.cat([batch["inputs_embeds"], embeds], 1)
            rows = embedded.generate_tokens(batch, **embedded.generation_options({"max_new_tokens": TOKENS})).tolist()
            end = embedded.tokenizer.convert_tokens_to_ids("<|im_end|>")
            wanted.append(rows[0][: rows[0].index(end) + 1] if end in rows[0] else rows[0])
    with engine(steering_file, FIXED) as llm:
        prompts = [{**request.prompt, "prompt": request.prompt["prompt"] + beginning} for request in requests[:4]]
        outputs = llm.generate(prompts, sampling(), use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == wanted


def test_options_that_the_operator_allows_are_steered(
    steering_file: Path, requests: list[Request], expected: Answers
) -> None:
    """``min_tokens`` that the answers reach anyway, and a bias that changes nothing, give the same steered answers."""
    from vllm import SamplingParams

    allowed = {**FIXED, "SARSTEER_ALLOW_REQUEST": "min_tokens,logit_bias"}
    params = SamplingParams(temperature=0, max_tokens=TOKENS, min_tokens=1, logit_bias={5: 0.0})
    with engine(steering_file, allowed) as llm:
        outputs = llm.generate([request.prompt for request in requests[:4]], params, use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == expected[ALPHA][:4]
