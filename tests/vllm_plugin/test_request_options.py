"""Issue 13, item 8: options of requests are refused unless they are known to be steered exactly."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from sarsteer.errors import SteeringError
from sarsteer.vllm.request_options import CHAT, NEVER, OPTIONAL, SAMPLING, parse_allowed, refused_chat, refused_sampling


class Params:
    """As vLLM's ``SamplingParams``: a struct with defaults."""

    __struct_fields__ = (
        "n",
        "temperature",
        "logit_bias",
        "prompt_logprobs",
        "ignore_eos",
        "novel",
        "extra_args",
        "_own",
    )

    def __init__(self, **values: Any) -> None:
        defaults = {"n": 1, "temperature": 1.0, "ignore_eos": False, "novel": 0}
        for name in self.__struct_fields__:
            setattr(self, name, values.get(name, defaults.get(name)))


class Chat:
    """As vLLM's ``ChatCompletionRequest``: a pydantic model."""

    model_fields: ClassVar[dict[str, Any]] = {
        name: SimpleNamespace(get_default=lambda value=value, **_: value)
        for name, value in {
            "messages": None,
            "temperature": None,
            "continue_final_message": False,
            "add_generation_prompt": True,
            "echo": False,
            "chat_template_kwargs": None,
            "novel": None,
        }.items()
    }

    def __init__(self, role: str = "user", template: dict[str, Any] | None = None, **values: Any) -> None:
        self.messages: list[Any] = [{"role": role, "content": "hello"}]
        self.chat_template_kwargs = template
        self.model_fields_set = {"messages", *values, *(("chat_template_kwargs",) if template else ())}
        for name, value in values.items():
            setattr(self, name, value)


def sampling(allowed: tuple[str, ...] = (), **values: Any) -> str | None:
    return refused_sampling(Params(**values), Params(), allowed)


def test_an_option_is_in_one_list_only() -> None:
    assert not set(OPTIONAL) & set(NEVER)
    assert not SAMPLING & set(NEVER)
    assert SAMPLING & set(OPTIONAL) == {"repetition_penalty"}, "a model's generation_config sets it, a client may not"
    assert not CHAT & {"continue_final_message", "add_generation_prompt", "chat_template", "echo"}
    assert not CHAT & {"repetition_penalty", "chat_template_kwargs", "reasoning_effort"}


def test_sampling_by_the_steered_model_is_accepted() -> None:
    assert sampling(n=4, temperature=0, extra_args={"sarsteer_alpha": 0.1}, _=3) is None
    assert sampling(logit_bias={}, ignore_eos=False) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"logit_bias": {5: -100.0}}, "logit_bias is refused because the client can forbid the tokens of a refusal"),
        ({"ignore_eos": True}, "ignore_eos is refused because the model must continue after a refusal"),
        ({"prompt_logprobs": 0}, "prompt_logprobs is refused: they show what the unsteered model would answer"),
        ({"novel": 1}, "novel is refused: it was not tested with steering"),
        ({"extra_args": {"kv_transfer_params": {}}}, "kv_transfer_params is refused"),
        ({"extra_args": {"other": 1}}, "vllm_xargs is refused"),
    ],
)
def test_other_sampling_is_refused_unless_allowed(values: dict[str, Any], reason: str) -> None:
    refused = sampling(**values)
    assert refused is not None
    assert reason in refused
    (name,) = values
    if name in OPTIONAL:
        assert "SARSTEER_ALLOW_REQUEST" in refused
        assert sampling((name,), **values) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"continue_final_message": True}, "the client writes the beginning of the answer"),
        ({"role": "assistant"}, "the last message is the assistant's"),
        ({"add_generation_prompt": False}, "steering and the gate begin at another token"),
        ({"template": {"enable_thinking": False}}, "chat_template_kwargs is refused because the client decides how"),
        ({"echo": True}, "echo is refused"),
        ({"novel": 3}, "novel is refused: it was not tested with steering"),
    ],
)
def test_a_chat_must_end_where_an_answer_begins(values: dict[str, Any], reason: str) -> None:
    refused = refused_chat(Chat(**values), ())
    assert refused is not None
    assert reason in refused


def test_texts_contain_no_control_tokens() -> None:
    controls = re.compile(re.escape("<|end|>"))
    audio = {"type": "input_audio", "input_audio": {"data": "<|end|>"}}
    parts: list[Any] = [{"type": "text", "text": "Hello"}, audio]
    chat = Chat()
    for content, refused in (("Hello", False), (parts, False), ("a<|end|>b", True), ([{"text": "<|end|>"}], True)):
        chat.messages = [{"role": "user", "content": content}]
        reason = refused_chat(chat, (), controls)
        assert (reason is not None and "contains the control token <|end|>" in reason) == refused
        assert refused_chat(chat, ("control_tokens",), controls) is None
    chat = Chat(template={"note": ["<|end|>"]})
    reason = refused_chat(chat, ("chat_template_kwargs",), controls)
    assert reason is not None
    assert "control token" in reason


def test_a_plain_chat_is_accepted() -> None:
    assert refused_chat(Chat(temperature=0, echo=False, add_generation_prompt=True, novel=None), ()) is None
    allowed = ("chat_template_kwargs",)
    assert refused_chat(Chat(template={"enable_thinking": False}), allowed) is None
    refused = refused_chat(Chat(template={"add_generation_prompt": False}), allowed)
    assert refused == "chat_template_kwargs may not contain add_generation_prompt"
    assert refused_chat(Chat(role="assistant", continue_final_message=True), ("continue_final_message",)) is None


def test_the_operators_list_is_checked() -> None:
    assert parse_allowed("") == ()
    assert parse_allowed(" logit_bias, /v1/completions,logit_bias") == ("logit_bias", "/v1/completions")
    for text, says in (("prompt_logprobs", "cannot be allowed"), ("logit-bias", "unknown 'logit-bias'; use some of")):
        with pytest.raises(SteeringError, match=f"SARSTEER_ALLOW_REQUEST={text}: .*{says}"):
            parse_allowed(text)
