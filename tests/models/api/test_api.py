"""Models behind an API, over real HTTP to a server on loopback: what arrives, what comes back, and all that fails."""

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
    """A model whose behaviour is the last part of its name; it tries once unless told otherwise."""

    def make(behaviour: str = "echo", **options: Any) -> ApiModel:
        options = {"api_key": KEY, "max_retries": 0, "base_url": server.url, **options}
        return ApiModel(f"openai/gpt-audio/{behaviour}", **options)

    return make


def tone(pitch: int, rate: int = 16_000, seconds: float = 0.1, loud: float = 0.5) -> Clip:
    times = np.arange(int(rate * seconds)) / rate
    return Clip((loud * np.sin(2 * np.pi * pitch * times)).astype(np.float32), rate, f"{pitch} Hz")


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# ---- what arrives ----------------------------------------------------------------------------------------------------


def test_the_sound_arrives_as_it_is(api: Callable[..., ApiModel], server: OpenAIServer, wav: Path) -> None:
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


def test_sound_beyond_one_is_made_quieter_and_not_clipped(api: Callable[..., ApiModel]) -> None:
    assert api().generate([user_turn(tone(500, loud=3.0))])[0].endswith("500 Hz, peak 1.0")


def test_mp3_arrives_too(api: Callable[..., ApiModel]) -> None:
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


def test_options_are_put_into_the_servers_words(api: Callable[..., ApiModel], server: OpenAIServer) -> None:
    model = api()
    model.generate([said("hi")], 7)
    assert server.bodies[-1] | {"messages": 0} == {
        "model": "gpt-audio/echo",
        "messages": 0,
        "modalities": ["text"],
        "max_completion_tokens": 7,
        "temperature": 0,
    }
    assert len(model.generate([said("a"), said("b")], num_return_sequences=3, do_sample=True, seed=1, stop=["x"])) == 6
    sampled = server.bodies[-1]
    assert (sampled["n"], sampled["seed"], sampled["stop"]) == (3, 1, ["x"])
    assert "temperature" not in sampled
    model.generate([said("hi")], temperature=0.7, top_p=0.9, seed=None)
    assert (server.bodies[-1]["temperature"], server.bodies[-1]["top_p"]) == (0.7, 0.9)
    assert "seed" not in server.bodies[-1]
    local = ApiModel("Qwen/Qwen2-Audio", base_url=server.url, api_key=KEY, token_limit_key="max_tokens")
    local.generate([said("hi")])
    assert server.bodies[-1]["model"] == local.name == "Qwen/Qwen2-Audio"
    assert server.bodies[-1]["max_tokens"] == 256
    assert not {"modalities", "max_completion_tokens"} & set(server.bodies[-1])


# ---- many at once ----------------------------------------------------------------------------------------------------


def test_order_is_kept_and_no_more_are_in_flight_than_allowed(
    api: Callable[..., ApiModel], server: OpenAIServer
) -> None:
    turns = [said(f"number {index}") for index in range(60)]
    assert api("slow").generate(turns, batch_size=5) == [f"user: number {index}" for index in range(60)]
    assert 2 <= server.most_in_flight <= 5
    assert len(server.bodies) == 60
    assert api("slow").generate([]) == []


def test_answers_of_one_conversation_stay_together(api: Callable[..., ApiModel]) -> None:
    turns = [said(f"number {index}") for index in range(5)]
    answers = api("slow").generate(turns, num_return_sequences=2, do_sample=True)
    assert answers == [f"user: number {index}" for index in range(5) for _ in range(2)]


def test_within_a_running_event_loop(api: Callable[..., ApiModel]) -> None:
    model = api()

    async def main() -> list[str]:
        return [*model.generate([said("one")]), "".join(model.stream(said("two")))]

    assert asyncio.run(main()) == ["user: one", "user: two"]


def test_one_that_fails_is_named_and_the_others_are_called_off(
    api: Callable[..., ApiModel], server: OpenAIServer
) -> None:
    turns = [said("!hangs"), said("!hangs"), said("fine"), said("!deaf"), *[said("!hangs")] * 6]
    with pytest.raises(ModelError, match="conversation 3: the server refuses the request"):
        api().generate(turns, batch_size=3)
    assert server.tries == {"hangs": 2, "echo": 1, "deaf": 1}
    for _ in range(500):  # the server notices in its own time that we hung up
        if server.hung_up == 2:
            break
        time.sleep(0.01)
    assert server.hung_up == 2


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX's signal")
@pytest.mark.parametrize("inside_a_loop", [False, True])
def test_ctrl_c_calls_off_what_is_in_flight(
    server: OpenAIServer, inside_a_loop: bool, api: Callable[..., ApiModel]
) -> None:
    ask = f"ApiModel('gpt-audio/hangs', base_url={server.url!r}, api_key={KEY!r}).generate([turn] * 9, batch_size=4)"
    lines = [
        "import asyncio, signal",
        # a shell that runs the tests in its background has its children ignore Ctrl-C
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "from sarsteer.models.api.model import ApiModel",
        "turn = [{'role': 'user', 'content': 'hi'}]",
        # as in a notebook; asyncio.run would keep the first Ctrl-C to itself
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


@pytest.mark.parametrize("behaviour", ["busy-twice", "fails-once"])
def test_passing_trouble_is_tried_again(api: Callable[..., ApiModel], server: OpenAIServer, behaviour: str) -> None:
    assert api(behaviour, max_retries=3).generate([said("hi")]) == ["user: hi"]
    assert server.tries[behaviour] > 1


@pytest.mark.parametrize(
    ("behaviour", "match"),
    [
        ("busy", r"the rate limit holds after 2 tries \(429: Rate limit .*\); wait, lower batch_size"),
        ("broke", r"no credit left .*top it up"),
        ("fails", r"the server failed in 2 tries \(500: The server had an error\); try again later"),
        ("missing", r"knows no model 'gpt-audio/missing' \(404: .*check its name, and base_url"),
        ("deaf", r"refuses the request \(400\): Invalid value: 'input_audio'. This model takes text only"),
        ("strict", r"refuses the request \(422\): modalities: extra fields not permitted"),
        ("garbage", r"the response cannot be read .*check base_url"),
        ("web-page", r"the response is no chat completion; check that base_url"),
        ("list", r"the response (is no chat completion|cannot be read)"),
        ("no-choices", r"the response holds 0 of 1 answers"),
        ("thinks", r"the answer is empty, .*raise max_new_tokens"),
        ("filtered", r"content filter withheld the answer"),
        ("empty", r"the answer is empty \(finish_reason 'stop'\)"),
    ],
)
def test_lasting_trouble_is_one_line(api: Callable[..., ApiModel], behaviour: str, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        api(behaviour, max_retries=1).generate([said("hi")])
    assert str(caught.value).startswith(f"openai/gpt-audio/{behaviour}: conversation 0: ")
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_no_answer_in_time(api: Callable[..., ApiModel]) -> None:
    with pytest.raises(ModelError, match=r"conversation 0: no answer from http.* in time, in 1 try; raise timeout"):
        api("hangs", timeout=0.2).generate([said("hi")])


def test_a_server_that_cannot_be_reached(api: Callable[..., ApiModel]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    url = f"http://127.0.0.1:{free}/v1"
    with pytest.raises(
        ModelError, match=rf"conversation 0: {url} cannot be reached in 1 try \(.+\); check the address"
    ):
        api(base_url=url).generate([said("hi")])
    with pytest.raises(ModelError, match=r"cannot be reached"):
        next(api(base_url=url).stream(said("hi")))


def test_a_wrong_key_is_not_shown(api: Callable[..., ApiModel]) -> None:
    model = api(api_key="the-wrong-key\n")
    with pytest.raises(ModelError, match=r"refuses the API key \(401\); check OPENAI_API_KEY") as caught:
        model.generate([said("hi")])
    assert "the-wr" not in str(caught.value) + repr(model)


def test_fewer_answers_than_asked_for(api: Callable[..., ApiModel]) -> None:
    with pytest.raises(ModelError, match="holds 1 of 2 answers"):
        api("one-only").generate([said("hi")], num_return_sequences=2, do_sample=True)


def test_a_refusal_in_its_own_field_is_the_answer(api: Callable[..., ApiModel]) -> None:
    assert api("refuses").generate([said("hi")]) == ["I cannot help with that."]
    assert "".join(api("refuses").stream(said("hi"))) == "I cannot help with that."


def test_nothing_is_sent_where_one_conversation_is_bad(
    api: Callable[..., ApiModel], server: OpenAIServer, tmp_path: Path
) -> None:
    model = api()
    for bad, error, match in (
        (user_turn(tmp_path / "none.wav"), AudioError, "no such file"),
        ([{"role": "user"}], MessageError, "conversation 2: message 0: needs 'role'"),
        ([{"role": "user", "content": [{"type": "video", "path": "x"}]}], MessageError, "takes no video"),
    ):
        with pytest.raises(error, match=match):
            model.generate([said("a"), said("b"), bad])
    with pytest.raises(MessageError, match="wrap your messages in a list"):
        model.generate(said("a"))  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="give a list of conversations"):
        model.generate("a")  # type: ignore[arg-type]
    assert server.bodies == []


def test_options_that_cannot_be_right(api: Callable[..., ApiModel], server: OpenAIServer) -> None:
    model = api()
    with pytest.raises(ModelError, match=r"takes no option num_beams, top_k; it understands do_sample, "):
        model.generate([said("hi")], top_k=3, num_beams=2)
    with pytest.raises(ModelError, match=r"takes no option top_k"):
        model.stream(said("hi"), top_k=3)
    with pytest.raises(ModelError, match=r"do_sample=False and temperature=0.5 contradict"):
        model.generate([said("hi")], do_sample=False, temperature=0.5)
    with pytest.raises(ModelError, match=r"batch_size must be at least 1"):
        model.generate([said("hi")], batch_size=0)
    with pytest.raises(ModelError, match=r"only one answer can be streamed"):
        model.stream(said("hi"), num_return_sequences=2)
    assert server.bodies == []


# ---- making one ------------------------------------------------------------------------------------------------------


def test_key_and_address_come_from_the_environment(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"^openai/gpt-audio: there is no API key; set OPENAI_API_KEY"):
        ApiModel("openai/gpt-audio")
    assert "https://api.openai.com/v1" in repr(ApiModel("openai/gpt-audio", api_key="x"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert ApiModel("gpt-audio").generate([said("hi")]) == ["user: hi"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "openai/"}, "names no model"),
        ({"base_url": "localhost:8000/v1"}, "is no web address; write http://"),
        ({"base_url": "http:///v1"}, "is no web address"),
        ({"base_url": "http://localhost:99999/v1"}, "is no web address"),
        ({"api_key": "sk-1\nsk-2"}, "the API key holds characters that no key has"),
        ({"api_key": "ключ"}, "the API key holds characters that no key has"),
        ({"audio_format": "ogg"}, "unknown audio_format 'ogg'; use wav or mp3"),
    ],
)
def test_arguments_that_cannot_be_right(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        ApiModel(**{"name": "openai/gpt-audio", "api_key": "x", **arguments})


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sarsteer\[api\]'"):
        ApiModel("openai/gpt-audio", api_key="x")


def test_steering_is_refused() -> None:
    model = ApiModel("openai/gpt-audio", api_key="x")
    assert not model.steerable
    told = (
        "^openai/gpt-audio answers over an API and shows no activations: it can be defended by a prompt, not steered$"
    )
    with pytest.raises(ModelError, match=told):
        model.check_steerable()
    with pytest.raises(ModelError, match=told):
        model.last_token_activations([said("hi")])


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_the_pieces_of_a_stream_are_the_answer(api: Callable[..., ApiModel], server: OpenAIServer) -> None:
    model, turn = api(), user_turn(tone(440), "What   is this?")
    pieces = list(model.stream(turn, 9))
    assert len(pieces) > 3
    assert ["".join(pieces)] == model.generate([turn], 9)
    assert server.bodies[0] == {**server.bodies[1], "stream": True}


def test_a_stream_may_be_left(api: Callable[..., ApiModel]) -> None:
    pieces = api().stream(said("a long answer"))
    assert next(pieces).startswith("user")
    pieces.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("behaviour", "match"),
    [
        ("cut", "the stream ended before the answer did"),
        ("breaks", "the server broke off: the engine died; try again"),
        ("noise", "the response cannot be read"),
        ("thinks", "raise max_new_tokens"),
        ("deaf", r"refuses the request \(400\)"),
        ("no-choices", "the stream ended before the answer did"),
    ],
)
def test_a_stream_that_breaks_off_is_no_answer(api: Callable[..., ApiModel], behaviour: str, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        list(api(behaviour).stream(said("hi")))
    assert str(caught.value).startswith(f"openai/gpt-audio/{behaviour}: ")
    assert "\n" not in str(caught.value)
