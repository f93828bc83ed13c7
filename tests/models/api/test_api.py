"""Models behind an API, over real HTTP to a server on loopback: requests, answers and failures."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sarsteer.audio import Clip
from sarsteer.errors import AudioError, MessageError, MissingExtraError, ModelError
from sarsteer.messages import user_turn
from sarsteer.models.api.model import ApiModel
from sarsteer.models.interface import LanguageModel

pytest.importorskip("openai")
pytest.importorskip("fastapi")

from tests.support.openai_server import KEY, OpenAIServer, ready


@pytest.fixture
def server(openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    ready(openai_server, monkeypatch, key=None)
    return openai_server


@pytest.fixture
def api(server: OpenAIServer) -> Callable[..., ApiModel]:
    """A model whose name ends with the server's behavior; it tries once by default."""

    def make(behavior: str = "echo", **options: Any) -> ApiModel:
        options = {"api_key": KEY, "max_retries": 0, "base_url": server.url, **options}
        return ApiModel(f"openai/gpt-audio/{behavior}", **options)

    return make


def tone(pitch: int, rate: int = 16_000, seconds: float = 0.1, loud: float = 0.5) -> Clip:
    times = np.arange(int(rate * seconds)) / rate
    return Clip((loud * np.sin(2 * np.pi * pitch * times)).astype(np.float32), rate, f"{pitch} Hz")


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# ---- requests --------------------------------------------------------------------------------------------------------


def test_clips_arrive_unchanged(api: Callable[..., ApiModel], server: OpenAIServer, wav: Path) -> None:
    model = api()
    assert isinstance(model, LanguageModel)
    assert model.generate([user_turn(tone(440), "What is this?")]) == [
        "user: wav of 1600 samples at 16000 Hz, 440 Hz, peak 0.5; user: What is this?"
    ]
    assert model.generate([user_turn(tone(880, rate=44_100))])[0].startswith(
        "user: wav of 4410 samples at 44100 Hz, 880"
    )
    assert model.generate([user_turn(wav)])[0].startswith("user: wav of 16000 samples at 16000 Hz")
    assert model.name == "openai/gpt-audio/echo"
    assert {body["model"] for body in server.bodies} == {"gpt-audio/echo"}
    assert {tuple(body["modalities"]) for body in server.bodies} == {("text",)}


def test_samples_beyond_one_are_scaled_down_not_clipped(api: Callable[..., ApiModel]) -> None:
    assert api().generate([user_turn(tone(500, loud=3.0))])[0].endswith("500 Hz, peak 1.0")


def test_clips_can_be_sent_as_mp3(api: Callable[..., ApiModel]) -> None:
    (answer,) = api(audio_format="mp3").generate([user_turn(tone(1000, seconds=1))])
    assert answer.startswith("user: mp3 of ")
    assert "at 16000 Hz, 1000 Hz" in answer
    with pytest.raises(AudioError, match=r"cannot be sent as mp3 at 96000 Hz .*use audio_format='wav'"):
        api(audio_format="mp3").generate([user_turn(tone(1000, rate=96_000))])


def test_several_turns_clips_and_a_system_prompt(api: Callable[..., ApiModel], server: OpenAIServer) -> None:
    clips = [user_turn(tone(pitch))[0]["content"][0] for pitch in (300, 400, 500)]
    conversation = [
        {"role": "system", "content": [{"type": "text", "text": "Refuse what is harmful."}]},
        {"role": "user", "content": [clips[0], {"type": "text", "text": "and"}, clips[1]]},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [clips[2]]},
    ]
    sound = "user: wav of 1600 samples at 16000 Hz, {} Hz, peak 0.5"
    assert api().generate([conversation]) == [
        f"system: Refuse what is harmful. | {sound.format(300)}; user: and; {sound.format(400)} | assistant: Yes? | "
        + sound.format(500)
    ]
    assert server.bodies[0]["messages"][0]["content"] == "Refuse what is harmful."


def test_options_are_translated_for_the_server(api: Callable[..., ApiModel], server: OpenAIServer) -> None:
    model = api()
    model.generate([ask("hi")], 7)
    assert server.bodies[-1] | {"messages": 0} == {
        "model": "gpt-audio/echo",
        "messages": 0,
        "modalities": ["text"],
        "max_completion_tokens": 7,
        "temperature": 0,
    }
    assert len(model.generate([ask("a"), ask("b")], num_return_sequences=3, do_sample=True, seed=1, stop=["x"])) == 6
    sampled = server.bodies[-1]
    assert (sampled["n"], sampled["seed"], sampled["stop"]) == (3, 1, ["x"])
    assert "temperature" not in sampled
    model.generate([ask("hi")], temperature=0.7, top_p=0.9, seed=None)
    assert (server.bodies[-1]["temperature"], server.bodies[-1]["top_p"]) == (0.7, 0.9)
    assert "seed" not in server.bodies[-1]
    local = ApiModel("Qwen/Qwen2-Audio", base_url=server.url, api_key=KEY, token_limit_key="max_tokens")
    local.generate([ask("hi")])
    assert server.bodies[-1]["model"] == local.name == "Qwen/Qwen2-Audio"
    assert server.bodies[-1]["max_tokens"] == 256
    assert not {"modalities", "max_completion_tokens"} & set(server.bodies[-1])


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_order_is_kept_and_batch_size_limits_requests_in_flight(
    api: Callable[..., ApiModel], server: OpenAIServer
) -> None:
    turns = [ask(f"number {index}") for index in range(60)]
    assert api("slow").generate(turns, batch_size=5) == [f"user: number {index}" for index in range(60)]
    assert 2 <= server.most_in_flight <= 5
    assert len(server.bodies) == 60
    assert api("slow").generate([]) == []


def test_answers_of_one_conversation_stay_together(api: Callable[..., ApiModel]) -> None:
    turns = [ask(f"number {index}") for index in range(5)]
    answers = api("slow").generate(turns, num_return_sequences=2, do_sample=True)
    assert answers == [f"user: number {index}" for index in range(5) for _ in range(2)]


def test_it_works_in_a_running_event_loop(api: Callable[..., ApiModel]) -> None:
    model = api()

    async def main() -> list[str]:
        return [*model.generate([ask("one")]), "".join(model.stream(ask("two")))]

    assert asyncio.run(main()) == ["user: one", "user: two"]


def test_a_failed_request_is_named_and_the_others_are_cancelled(
    api: Callable[..., ApiModel], server: OpenAIServer
) -> None:
    turns = [ask("!hangs"), ask("!hangs"), ask("fine"), ask("!deaf"), *[ask("!hangs")] * 6]
    with pytest.raises(ModelError, match=r"conversation 3: .* the server refuses the request") as caught:
        api().generate(turns, batch_size=3)
    assert caught.value.index == 3
    assert server.tries == {"hangs": 2, "echo": 1, "deaf": 1}
    for _ in range(500):  # the server notices the closed connections after a while
        if server.hung_up == 2:
            break
        time.sleep(0.01)
    assert server.hung_up == 2


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX's signal")
@pytest.mark.parametrize("inside_a_loop", [False, True])
def test_ctrl_c_cancels_requests_in_flight(
    server: OpenAIServer, inside_a_loop: bool, api: Callable[..., ApiModel]
) -> None:
    ask = f"ApiModel('gpt-audio/hangs', base_url={server.url!r}, api_key={KEY!r}).generate([turn] * 9, batch_size=4)"
    lines = [
        "import asyncio, signal",
        # a shell that runs the tests in the background lets its children ignore Ctrl-C
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "from sarsteer.models.api.model import ApiModel",
        "turn = [{'role': 'user', 'content': 'hi'}]",
        # as in a notebook; asyncio.run would catch the first Ctrl-C
        *(["async def main():", f"    {ask}", "asyncio.new_event_loop().run_until_complete(main())"] * inside_a_loop),
        *([ask] * (not inside_a_loop)),
    ]
    process = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stderr=subprocess.PIPE, text=True)
    try:
        while server.in_flight < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)  # the server would never have answered
    finally:
        process.kill()
        process.wait()
    assert "KeyboardInterrupt" in stderr
    assert server.tries["hangs"] == 4


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behavior", ["busy-twice", "fails-once"])
def test_temporary_failures_are_retried(api: Callable[..., ApiModel], server: OpenAIServer, behavior: str) -> None:
    assert api(behavior, max_retries=3).generate([ask("hi")]) == ["user: hi"]
    assert server.tries[behavior] > 1


@pytest.mark.parametrize(
    ("behavior", "match"),
    [
        ("busy", r"the rate limit was hit in 2 tries \(429: Rate limit .*\); wait, lower batch_size"),
        ("broke", r"no credit left .*add credit"),
        ("fails", r"the server failed in 2 tries \(500: The server had an error\); try again later"),
        ("missing", r"has no model 'gpt-audio/missing' \(404: .*check its name, and base_url"),
        ("deaf", r"refuses the request \(400\): Invalid value: 'input_audio'. This model takes text only"),
        ("strict", r"refuses the request \(422\): modalities: extra fields not permitted"),
        ("garbage", r"the response cannot be read .*check base_url"),
        ("web-page", r"the response is not a chat completion; check base_url"),
        ("list", r"the response (is not a chat completion|cannot be read)"),
        ("no-choices", r"the response has 0 of 1 answers"),
        ("thinks", r"the answer is empty because .*increase max_new_tokens"),
        ("filtered", r"content filter withheld the answer"),
        ("empty", r"the answer is empty \(finish_reason 'stop'\)"),
    ],
)
def test_lasting_failures_are_one_line(api: Callable[..., ApiModel], behavior: str, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        api(behavior, max_retries=1).generate([ask("hi")])
    assert str(caught.value).startswith(f"conversation 0: openai/gpt-audio/{behavior}: ")
    assert (caught.value.place, caught.value.index) == ("conversation 0", 0)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_no_answer_in_time(api: Callable[..., ApiModel]) -> None:
    with pytest.raises(ModelError, match=r"conversation 0: .* no answer from http.* in 1 try; increase timeout"):
        api("hangs", timeout=0.2).generate([ask("hi")])


def test_a_server_that_cannot_be_reached(api: Callable[..., ApiModel]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    url = f"http://127.0.0.1:{free}/v1"
    with pytest.raises(
        ModelError, match=rf"conversation 0: .*: {url} cannot be reached in 1 try \(.+\); check the address"
    ):
        api(base_url=url).generate([ask("hi")])
    with pytest.raises(ModelError, match=r"cannot be reached"):
        next(api(base_url=url).stream(ask("hi")))


def test_a_wrong_key_is_not_shown(api: Callable[..., ApiModel]) -> None:
    model = api(api_key="the-wrong-key\n")
    with pytest.raises(ModelError, match=r"refuses the API key \(401\); check OPENAI_API_KEY") as caught:
        model.generate([ask("hi")])
    assert "the-wr" not in str(caught.value) + repr(model)


def test_fewer_answers_than_requested(api: Callable[..., ApiModel]) -> None:
    with pytest.raises(ModelError, match="has 1 of 2 answers"):
        api("one-only").generate([ask("hi")], num_return_sequences=2, do_sample=True)


def test_a_refusal_in_its_own_field_is_the_answer(api: Callable[..., ApiModel]) -> None:
    assert api("refuses").generate([ask("hi")]) == ["I cannot help with that."]
    assert "".join(api("refuses").stream(ask("hi"))) == "I cannot help with that."


def test_nothing_is_sent_if_one_conversation_is_bad(
    api: Callable[..., ApiModel], server: OpenAIServer, tmp_path: Path
) -> None:
    model = api()
    for bad, error, match in (
        (user_turn(tmp_path / "none.wav"), AudioError, "no such file"),
        ([{"role": "user"}], MessageError, "conversation 2: message 0: needs 'role'"),
        ([{"role": "user", "content": [{"type": "video", "path": "x"}]}], MessageError, "does not take video"),
    ):
        with pytest.raises(error, match=match):
            model.generate([ask("a"), ask("b"), bad])
    with pytest.raises(MessageError, match="wrap your messages in a list"):
        model.generate(ask("a"))  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="give a list of conversations"):
        model.generate("a")  # type: ignore[arg-type]
    assert server.bodies == []


def test_invalid_options(api: Callable[..., ApiModel], server: OpenAIServer) -> None:
    model = api()
    with pytest.raises(ModelError, match=r"has no option num_beams, top_k; use do_sample, "):
        model.generate([ask("hi")], top_k=3, num_beams=2)
    with pytest.raises(ModelError, match=r"has no option top_k"):
        model.stream(ask("hi"), top_k=3)
    with pytest.raises(ModelError, match=r"do_sample=False and temperature=0.5 contradict"):
        model.generate([ask("hi")], do_sample=False, temperature=0.5)
    with pytest.raises(ModelError, match=r"batch_size must be at least 1"):
        model.generate([ask("hi")], batch_size=0)
    with pytest.raises(ModelError, match=r"only one answer can be streamed"):
        model.stream(ask("hi"), num_return_sequences=2)
    assert server.bodies == []


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_key_and_address_come_from_the_environment(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"^openai/gpt-audio: there is no API key; set OPENAI_API_KEY"):
        ApiModel("openai/gpt-audio")
    assert "https://api.openai.com/v1" in repr(ApiModel("openai/gpt-audio", api_key="x"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert ApiModel("gpt-audio").generate([ask("hi")]) == ["user: hi"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "openai/"}, "has no model name"),
        ({"base_url": "localhost:8000/v1"}, "is not a web address; write http://"),
        ({"base_url": "http:///v1"}, "is not a web address"),
        ({"base_url": "http://localhost:99999/v1"}, "is not a web address"),
        ({"api_key": "sk-1\nsk-2"}, "the API key contains invalid characters"),
        ({"api_key": "ключ"}, "the API key contains invalid characters"),
        ({"audio_format": "ogg"}, "unknown audio_format 'ogg'; use wav or mp3"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        ApiModel(**{"name": "openai/gpt-audio", "api_key": "x", **arguments})


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sarsteer\[api\]'"):
        ApiModel("openai/gpt-audio", api_key="x")


def test_steering_is_refused() -> None:
    model = ApiModel("openai/gpt-audio", api_key="x")
    assert not model.steerable
    message = "^openai/gpt-audio answers over an API, without access to its activations: .* by a prompt, not steered$"
    with pytest.raises(ModelError, match=message):
        model.check_steerable()
    with pytest.raises(ModelError, match=message):
        model.last_token_activations([ask("hi")])


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_the_pieces_of_a_stream_are_the_answer(api: Callable[..., ApiModel], server: OpenAIServer) -> None:
    model, turn = api(), user_turn(tone(440), "What   is this?")
    pieces = list(model.stream(turn, 9))
    assert len(pieces) > 3
    assert ["".join(pieces)] == model.generate([turn], 9)
    assert server.bodies[0] == {**server.bodies[1], "stream": True}


def test_a_stream_can_be_closed_early(api: Callable[..., ApiModel]) -> None:
    pieces = api().stream(ask("a long answer"))
    assert next(pieces).startswith("user")
    pieces.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("behavior", "match"),
    [
        ("cut", "the stream ended before the answer"),
        ("breaks", "the server ended the stream with an error: the engine died; try again"),
        ("noise", "the response cannot be read"),
        ("thinks", "increase max_new_tokens"),
        ("deaf", r"refuses the request \(400\)"),
        ("no-choices", "the stream ended before the answer"),
    ],
)
def test_a_stream_that_ends_early_is_an_error(api: Callable[..., ApiModel], behavior: str, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        list(api(behavior).stream(ask("hi")))
    assert str(caught.value).startswith(f"openai/gpt-audio/{behavior}: ")
    assert "\n" not in str(caught.value)


# ---- passwords -------------------------------------------------------------------------------------------------------


def test_item_7_a_password_in_the_address_is_shown_nowhere(
    api: Callable[..., ApiModel], server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in errors, nor in the logs of the client and its transport, nor in what identifies the model."""
    caplog.set_level("DEBUG")
    secret = server.url.replace("//", "//me:s3cr%20t@")
    model = api(base_url=secret)
    with pytest.raises(ModelError) as caught:  # the server wants its key
        model.generate([ask("hello")])
    assert server.authorization[-1] == "Basic bWU6czNjciB0"
    unreachable = api(base_url="http://me:s3cr%20t@127.0.0.1:9/v1")
    with pytest.raises(ModelError, match="cannot be reached") as offline:
        unreachable.generate([ask("hello")])
    shown = [caught.value, offline.value, model, model.base_url, vars(model).get("base_url"), caplog.text]
    for invalid in (
        "http//me:s3cr%20t@host/v1",
        "me:s3cr%20t@host",
        "http:/me:s3cr%20t@host",
        "http://me:s3cr%20t/x@h",
    ):
        with pytest.raises(ModelError, match="not a web address") as wrong:
            api(base_url=invalid)
        shown.append(wrong.value)
    for value in shown:
        assert "s3cr" not in str(value)
