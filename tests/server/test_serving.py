"""The server as a real process, asked by the official client: its answers are those of the model without a server."""

from __future__ import annotations

import itertools
import json
import random
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.conftest import MONITOR, REFUSAL, TENANTS, TOKENS, Messages, Offline, Server, key, policy_text

pytestmark = pytest.mark.slow


def check(server: Server, offline: Offline, tenant: str, messages: Messages, *, stream: bool) -> None:
    """One request, compared with the answer of the model without a server."""
    expected = offline.answer(tenant, messages)
    if stream:
        assert server.stream(tenant, messages) == expected.text
        return
    raw = server.ask(tenant, messages)
    choice = raw.parse().choices[0]
    assert choice.message.content == expected.text
    decision = {None: "steered", True: "open", False: "closed"}[expected.opened]
    shown = None if tenant == "shadow" else decision  # this tenant exposes nothing
    assert raw.headers.get("x-sarsteer-decision") == shown
    if tenant == "hotline":
        assert choice.finish_reason == ("content_filter" if expected.opened else "stop")
    assert ("x-sarsteer-score" in raw.headers) == (tenant == "gated")


def test_concurrent_requests_get_their_own_answers(server: Server, offline: Offline, requests: list[Messages]) -> None:
    cases = [
        (tenant, messages, stream)
        for (tenant, messages), stream in zip(itertools.product(TENANTS, requests), itertools.cycle([True, False]))
    ]
    random.Random(0).shuffle(cases)
    for tenant, messages, _ in cases:  # not while the server computes
        offline.answer(tenant, messages)
    rows = server.metric("sarsteer_batch_rows_sum"), server.metric("sarsteer_batch_rows_count")
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda case: check(server, offline, case[0], case[1], stream=case[2]), cases))
    answered = server.metric("sarsteer_batch_rows_sum") - rows[0]
    assert answered == len(cases)
    assert server.metric("sarsteer_batch_rows_count") - rows[1] < answered  # they were batched
    assert server.metric("sarsteer_queue_length") == 0
    records = server.records()[-len(cases) :]
    assert len({record["request_id"] for record in records}) == len(cases)
    assert {record["status"] for record in records} == {200}


def test_the_response_has_openais_form(server: Server, requests: list[Messages], offline: Offline) -> None:
    raw = server.ask("gated", requests[1], extra_body={"sarsteer": {"decision": True}})
    answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    decision = answer.model_extra["sarsteer"]
    assert decision["decision"] == raw.headers["x-sarsteer-decision"]
    assert decision["score"] == pytest.approx(float(raw.headers["x-sarsteer-score"]), rel=1e-5)
    back = [*requests[1], answer.choices[0].message.model_dump(), *requests[2]]  # as clients send it back
    assert server.ask("gated", back).parse().choices[0].message.content
    chunks = list(
        server.client().chat.completions.create(
            model="sarsteer-tiny", messages=requests[1], stream=True, stream_options={"include_usage": True}, n=2
        )
    )
    assert chunks[-1].usage.completion_tokens > 0
    assert {chunk.choices[0].index for chunk in chunks[:-1]} == {0, 1}
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason]
    assert reasons == ["stop", "stop"]
    assert [model.id for model in server.client().models.list()] == ["sarsteer-tiny"]
    assert server.client().models.retrieve("sarsteer-tiny").id == "sarsteer-tiny"


def test_sampling_depends_on_the_seed_alone(server: Server, requests: list[Messages]) -> None:
    def sampled(seed: int) -> list[str]:
        answer = server.ask("weak", requests[1], n=3, seed=seed, temperature=1.0, top_p=0.95).parse()
        return [choice.message.content for choice in answer.choices]

    alone = sampled(7)
    with ThreadPoolExecutor(6) as pool:  # the same seed in other batches, beside other rows
        together = list(pool.map(sampled, [7, 1, 2, 7, 3, 7]))
    assert together[0] == together[3] == together[5] == alone


def test_stops_and_lengths(server: Server, requests: list[Messages], offline: Offline) -> None:
    whole = offline.answer("weak", requests[1]).text
    stop = whole.split()[3]
    choice = server.ask("weak", requests[1], stop=["nothing like it", stop]).parse().choices[0]
    assert choice.message.content == whole.partition(stop)[0].rstrip()
    assert choice.finish_reason == "stop"
    assert server.stream("weak", requests[1], stop=stop) == choice.message.content
    answer = server.ask("weak", requests[1], max_tokens=3).parse()
    assert whole.startswith(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_curl(server: Server, requests: list[Messages], offline: Offline) -> None:
    body = json.dumps({"model": "sarsteer-tiny", "messages": requests[0], "max_tokens": TOKENS})
    command = ["curl", "-sS", f"http://127.0.0.1:{server.port}/v1/chat/completions", "--data-binary", "@-"]
    command += ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {key('strong')}"]
    done = subprocess.run(command, input=body, capture_output=True, text=True, timeout=120)
    answer = json.loads(done.stdout)
    assert answer["choices"][0]["message"]["content"] == offline.answer("strong", requests[0]).text


# ---- what is refused -----------------------------------------------------------------------------------------------


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "gpt-audio"}, 404, "serves 'sarsteer-tiny'"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Sure,"}]}, 400, "last message"),
    ({"temperature": 1.5}, 400, "highest temperature is 1"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"max_tokens": 100_000}, 400, "at most 512 tokens"),
    ({"n": 100}, 400, "at most 8 answers"),
    ({"stop": ["a"] * 5}, 400, "at most 4"),
    ({"top_p": 0}, 400, "top_p"),
    ({"logit_bias": {"5": 100}}, 400, "could change the defense"),
    ({"tools": [{}]}, 400, "could change the defense"),
    ({"repetition_penalty": 2.0}, 400, "unknown parameter"),
    ({"vllm_xargs": {"sarsteer_alpha": 0}}, 400, "unknown parameter"),
    ({"add_generation_prompt": False}, 400, "unknown parameter"),
    ({"sarsteer": {"alpha": 0}}, 400, "unknown parameter"),
    ({"stream_options": {"include_usage": True}}, 400, "stream: true"),
]


@pytest.mark.parametrize(("change", "status", "says"), REFUSED)
def test_bad_requests(server: Server, requests: list[Messages], change: dict[str, Any], status: int, says: str) -> None:
    body = {"model": "sarsteer-tiny", "messages": requests[0], **change}
    with pytest.raises(openai.APIStatusError) as caught:
        server.client().post("/chat/completions", body=body, cast_to=object)
    assert caught.value.status_code == status
    error: Any = caught.value.body
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def part(kind: str, value: str) -> Messages:
    inner: dict[str, Any] = {"url": value} if kind.endswith("url") else {"data": value, "format": "wav"}
    return [{"role": "user", "content": [{"type": kind, kind: inner}]}]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (part("input_audio", "AAAA"), "not WAV"),
        (part("input_audio", "%%%"), "base64"),
        (part("audio_url", "/etc/passwd"), "only data URIs"),
        (part("audio_url", "file:///etc/passwd"), "only data URIs"),
        (part("audio_url", "http://127.0.0.1:1/clip.wav"), "SARSTEER_ALLOW_URLS"),
        (part("audio_url", "data:audio/wav,RIFF"), "base64"),
        (part("image_url", "file:///etc/passwd"), "only data URIs"),
    ],
)
def test_bad_media(server: Server, messages: Messages, says: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.ask("strong", messages)
    assert says in caught.value.body["message"]  # type: ignore[index]
    assert "root:" not in str(caught.value.body)


def test_keys(server: Server, requests: list[Messages]) -> None:
    stranger = server.client("nobody")
    with pytest.raises(openai.AuthenticationError, match="incorrect API key"):
        stranger.chat.completions.create(model="sarsteer-tiny", messages=requests[0])
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    for path in ("/sarsteer", "/metrics"):
        with pytest.raises(Exception, match="401"):
            server.get(path, key("nobody"))
    with pytest.raises(Exception, match="401"):  # a tenant may not see the others
        server.get("/metrics", key("weak"))
    status = json.loads(server.get("/sarsteer", key("weak")))
    assert [tenant["tenant"] for tenant in status["tenants"]] == ["weak"]
    assert status["tenants"][0]["alpha"] == 0.05
    assert "0123456789" not in json.dumps(status)  # no key
    assert str(server.folder) not in json.dumps(status)  # no path


def raw(server: Server, head: str, body: bytes = b"") -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_requests_that_no_client_sends(server: Server) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\nHost: x\nConnection: close\nAuthorization: Bearer {key('weak')}\n"
    assert b"413" in raw(server, head + "Content-Type: application/json\nContent-Length: 99999999").split(b"\r\n")[0]
    assert b"415" in raw(server, head + "Content-Type: text/plain\nContent-Length: 2", b"{}").split(b"\r\n")[0]
    deep = b"[" * 100_000
    refused = raw(server, head + f"Content-Type: application/json\nContent-Length: {len(deep)}", deep)
    assert b"bad_json" in refused
    chunks = b"".join(b"%x\r\n%s\r\n" % (2**20, b"x" * 2**20) for _ in range(17)) + b"0\r\n\r\n"
    assert b"413" in raw(server, head + "Content-Type: application/json\nTransfer-Encoding: chunked", chunks)[:40]
    assert b'"http_error"' in raw(server, "GET /nowhere HTTP/1.1\nHost: x\nConnection: close")
    assert b"405" in raw(server, "DELETE /v1/models HTTP/1.1\nHost: x\nConnection: close").split(b"\r\n")[0]
    server.eventually(lambda: server.metric("sarsteer_queue_length") == 0)


# ---- clients that leave --------------------------------------------------------------------------------------------


def test_clients_that_leave_free_their_place(server: Server, requests: list[Messages], offline: Offline) -> None:
    body = json.dumps({"model": "sarsteer-tiny", "messages": requests[0], "stream": True, "n": 4}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key('strong')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    before = len([record for record in server.records() if record["status"] == 499])
    open_ones = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
    for number, connection in enumerate(open_ones):
        connection.sendall(head + body[: len(body) // 2 if number % 2 else len(body)])
    time.sleep(0.05)
    for connection in open_ones:
        connection.close()
    check(server, offline, "weak", requests[2], stream=False)
    server.eventually(lambda: server.metric("sarsteer_queue_length") + server.metric("sarsteer_running") == 0)
    server.eventually(lambda: len([r for r in server.records() if r["status"] == 499]) == before + 12)


def test_a_client_that_reads_nothing_delays_nobody(server: Server, requests: list[Messages], offline: Offline) -> None:
    body = json.dumps({"model": "sarsteer-tiny", "messages": requests[0], "stream": True}).encode()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.connect(("127.0.0.1", server.port))
        head = f"Host: x\r\nAuthorization: Bearer {key('strong')}\r\nContent-Type: application/json"
        slow.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        check(server, offline, "strong", requests[2], stream=True)


# ---- policy --------------------------------------------------------------------------------------------------------


def test_the_policy_is_reloaded_without_losing_a_request(
    server: Server, requests: list[Messages], offline: Offline
) -> None:
    policy = server.folder / "policy.yaml"
    offline.answer("strong", requests[0]), offline.answer("weak", requests[0])

    def digest() -> str:
        return str(json.loads(server.get("/sarsteer", key("strong")))["policy"])

    def result() -> Any:
        return json.loads(server.get("/sarsteer", key("strong")))["last_reload"]

    first = digest()
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(server.ask, "weak", requests[0]) for _ in range(24)]
        policy.write_text(policy_text(weak="alpha: 0.2"))  # what "strong" has
        server.process.send_signal(signal.SIGHUP)
        answers = {one.result().parse().choices[0].message.content for one in running}
    assert answers <= {offline.answer("weak", requests[0]).text, offline.answer("strong", requests[0]).text}
    server.eventually(lambda: digest() != first)
    after = server.ask("weak", requests[0]).parse().choices[0].message.content
    assert after == offline.answer("strong", requests[0]).text
    second = digest()
    policy.write_text(policy_text(weak="alpha: 0"))  # nothing would be added
    server.process.send_signal(signal.SIGHUP)
    server.eventually(lambda: result()["result"] == "failed")
    assert digest() == second
    policy.write_text(policy_text())
    server.process.send_signal(signal.SIGHUP)
    server.eventually(lambda: digest() == first)
    check(server, offline, "weak", requests[0], stream=False)


def test_the_audit_log_has_decisions_and_no_content(server: Server, requests: list[Messages]) -> None:
    raw = server.ask("gated", requests[0])
    request_id = raw.headers["x-request-id"]
    server.eventually(lambda: any(record["request_id"] == request_id for record in server.records()))
    record = next(record for record in server.records() if record["request_id"] == request_id)
    assert record["decision"] == raw.headers["x-sarsteer-decision"]
    assert record["score"] == pytest.approx(float(raw.headers["x-sarsteer-score"]), rel=1e-5)
    assert record["artifact"] == json.loads(server.get("/sarsteer", key("gated")))["tenants"][0]["artifact"]
    text = server.audit.read_text()
    assert raw.parse().choices[0].message.content not in text
    assert "answer the question" not in text
    assert "0123456789" not in text
    assert server.audit.stat().st_mode & 0o077 == 0


def test_metrics_name_refusals(server: Server, requests: list[Messages], offline: Offline) -> None:
    opened = next(one for one in requests if offline.answer("hotline", one).text == REFUSAL)
    before = server.get("/metrics", MONITOR)
    server.ask("hotline", opened)
    after = server.get("/metrics", MONITOR)
    line = 'sarsteer_refusals_total{kind="policy",tenant="hotline"} '
    count = [float(text.partition(line)[2].split("\n")[0] or 0) for text in (before, after)]
    assert count[1] == count[0] + 1


# ---- the end of a process ------------------------------------------------------------------------------------------


def test_killed_restarted_and_drained(folder: Path, requests: list[Messages], offline: Offline) -> None:
    own = folder / "killed"
    own.mkdir()
    for name in ("steering.safetensors", "policy.yaml"):
        (own / name).write_bytes((folder / name).read_bytes())
    expected = offline.answer("strong", requests[0]).text
    first = Server(own, "--policy", "policy.yaml").wait()
    with ThreadPoolExecutor(4) as pool:
        lost = [pool.submit(first.ask, "strong", requests[0]) for _ in range(4)]
        first.stop(signal.SIGKILL)
        for one in lost:  # an answer or an error, never half an answer
            error = one.exception()
            assert isinstance(error, openai.APIConnectionError) if error else True
    second = Server(own, "--policy", "policy.yaml", port=first.port).wait()
    assert all(json.loads(line) for line in second.audit.read_text().splitlines())
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(second.ask, "strong", requests[0]) for _ in range(12)]
        second.eventually(lambda: second.metric("sarsteer_running") > 0)
        second.process.send_signal(signal.SIGTERM)
        outcomes = [one.exception() for one in answers]
    # a connection that was not accepted yet is refused; what was accepted is answered
    assert all(error is None or isinstance(error, openai.APIConnectionError) for error in outcomes)
    texts = [one.result().parse().choices[0].message.content for one in answers if one.exception() is None]
    assert texts
    assert set(texts) == {expected}
    assert second.process.wait(timeout=120) == 0
    records = [record for record in second.records() if record["status"] == 200]
    assert len(records) >= len(texts)
