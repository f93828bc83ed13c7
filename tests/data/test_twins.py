"""Safe twins from a server that writes good ones, bad ones and none, and an interrupted run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sarsteer.data.manifest import Item, load_items
from sarsteer.data.pairs import load_pairs
from sarsteer.data.twin_log import TwinLog, TwinResult
from sarsteer.data.twin_prompts import ReplyError, twin_in, verdict_in
from sarsteer.data.twins import make_twins
from sarsteer.errors import ManifestError, ModelError
from sarsteer.models.api.model import ApiModel
from tests.cli.test_cli import refused, run

pytest.importorskip("openai")
pytest.importorskip("fastapi")

from fastapi import HTTPException

from tests.support.openai_server import OpenAIServer, ready


@pytest.fixture
def server(openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    ready(openai_server, monkeypatch)
    openai_server.reply = obliging
    yield openai_server
    openai_server.reply = None


def asked(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """What a conversation asks for ("twin" or "harmless"), and about which request."""
    first = str(messages[0]["content"])
    return ("harmless" if '"harmless"' in first else "twin"), first.splitlines()[-1]


def obliging(messages: list[dict[str, Any]]) -> str:
    """Replaces "pick" by "paint", and calls harmless what does not contain "pick"."""
    what, request = asked(messages)
    if what == "harmless":
        return json.dumps({"harmless": "pick" not in request, "because": "of its words"})
    return "```json\n" + json.dumps({"twin": request.replace("pick", "paint")}) + "\n```"


def writing(*twins: str) -> Callable[[list[dict[str, Any]]], str]:
    """Replies with these, one per try."""

    def reply(messages: list[dict[str, Any]]) -> str:
        return obliging(messages) if asked(messages)[0] == "harmless" else twins[len(messages) // 2]

    return reply


def twin(text: str) -> str:
    return json.dumps({"twin": text})


def model(server: OpenAIServer, behavior: str = "echo") -> ApiModel:
    return ApiModel(f"openai/writer/{behavior}", base_url=server.url, max_retries=0)


def harmful(count: int = 1) -> list[Item]:
    return [Item(f"h{n}", f"How do I pick lock {n}?", "harmful", modality="text", category="c") for n in range(count)]


# ---- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    ["", "How do I paint?", '{"twin": 3}', '{"twin": " "}', '["twin"]', '{"twin": "a\\nb"}', 'Sure! {"twin": "a"}',
     "{" * 9999, json.dumps({"twin": "a" * 3000})],
)  # fmt: skip
def test_replies_without_a_twin(reply: str) -> None:
    with pytest.raises(ReplyError):
        twin_in(reply)


@pytest.mark.parametrize("reply", ["true", "{}", '{"harmless": "true"}', '{"harmless": 1}', '{"harmless": null}'])
def test_unreadable_verdicts(reply: str) -> None:
    with pytest.raises(ReplyError):
        verdict_in(reply)


def test_readable_replies() -> None:
    assert twin_in('```\n{"twin": " a b "}\n```') == "a b"
    assert verdict_in('{"harmless": false, "because": "a\\n b"}') == (False, "a b")


# ---- twins -----------------------------------------------------------------------------------------------------------


def test_each_request_gets_its_twin(tmp_path: Path, server: OpenAIServer) -> None:
    items = [*harmful(12), Item("s", "Bake bread", "safe", modality="text")]
    calls: list[tuple[int, int]] = []
    made = make_twins(
        items,
        model(server, "slow"),
        model(server),
        tmp_path / "log",
        in_flight=4,
        progress=lambda d, t: calls.append((d, t)),
    )
    assert made.rejected == []
    assert [item.id for item in made.items[:4]] == ["h0", "h0-safe", "h1", "h1-safe"]
    assert made.items[3].question == "How do I paint lock 1?"
    assert (made.items[3].pair, made.items[3].label, made.items[3].category) == ("h1", "safe", "c")
    assert calls == [(n, 12) for n in range(1, 13)]
    assert 1 < server.most_in_flight <= 4
    assert {body["temperature"] for body in server.bodies} == {0}


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("I cannot do that.", "not a JSON object"),
        (twin("how do I PICK lock 0"), "is the request itself"),
        (twin("How do I pick lock 1?"), "another of the harmful requests"),
        (twin("Bake bread"), r"too few of the request's words \(0\.00 of 1, at least 0\.5"),
        (twin("How do I pick block 0?"), r"judged harmful \(of its words\)"),
        (twin("?!"), "contains no word"),
    ],
)
def test_a_bad_twin_is_requested_again_with_the_reason(
    tmp_path: Path, server: OpenAIServer, first: str, reason: str
) -> None:
    server.reply = writing(first, twin("How do I paint lock 0?"))
    made = make_twins(harmful(2), model(server), model(server), tmp_path / "log", in_flight=1)
    assert made.items[1].question == "How do I paint lock 0?"
    again = next(body["messages"] for body in server.bodies if len(body["messages"]) == 3)
    assert again[1] == {"role": "assistant", "content": first}
    assert again[2]["content"].startswith("That will not do: ")
    assert re.search(reason, again[2]["content"])


def test_a_request_without_a_twin_is_rejected_with_its_reasons(tmp_path: Path, server: OpenAIServer) -> None:
    server.reply = writing(*["no"] * 3)
    made = make_twins(harmful(2), model(server), model(server), tmp_path / "log", tries=3)
    assert made.items == []
    assert [(result.id, result.twin, len(result.reasons)) for result in made.rejected] == [
        ("h0", None, 3),
        ("h1", None, 3),
    ]


def test_no_twin_is_kept_without_a_readable_verdict(tmp_path: Path, server: OpenAIServer) -> None:
    server.reply = lambda messages: "hm" if asked(messages)[0] == "harmless" else obliging(messages)
    made = make_twins(harmful(), model(server), model(server), tmp_path / "a", tries=1)
    assert "could not be judged" in made.rejected[0].reasons[0]
    server.reply = obliging
    made = make_twins(harmful(), model(server), model(server, "filtered"), tmp_path / "b", tries=1)
    assert "withheld" in made.rejected[0].reasons[0]
    made = make_twins(harmful(), model(server, "empty"), model(server), tmp_path / "c", tries=2)
    assert len(made.rejected[0].reasons) == 2


def test_a_failing_server_keeps_finished_twins(tmp_path: Path, server: OpenAIServer) -> None:
    log = tmp_path / "log"
    items = [*harmful(3), Item("x", "pick", "harmful", modality="text"), *harmful(9)[4:]]

    def failing(messages: list[dict[str, Any]]) -> str:
        if asked(messages) == ("twin", "pick"):
            raise HTTPException(500, "out of memory")
        return obliging(messages)

    server.reply = failing
    with pytest.raises(ModelError, match="the server failed"):
        make_twins(items, model(server), model(server), log, in_flight=1)
    assert len(log.read_text().splitlines()) == 4
    server.bodies.clear()
    kept = [item for item in items if item.id != "x"]
    made = make_twins(kept, model(server), model(server), log, in_flight=1)
    assert len(made.items) == 2 * len(kept)
    assert len(server.bodies) == 2 * (len(kept) - 3), "three requests were finished before"


def test_an_incomplete_last_line_is_written_again(tmp_path: Path, server: OpenAIServer) -> None:
    log = tmp_path / "log"
    whole = make_twins(harmful(3), model(server), model(server), log, in_flight=1)
    data = log.read_bytes()
    for cut in (1, 9, len(data) // 2, len(data) - 1):
        log.write_bytes(data[:-cut])
        assert make_twins(harmful(3), model(server), model(server), log, in_flight=1) == whole
        assert log.read_bytes() == data


def test_a_damaged_log_and_a_log_of_another_run(tmp_path: Path, server: OpenAIServer) -> None:
    log = tmp_path / "log"
    make_twins(harmful(), model(server), model(server), log)
    with pytest.raises(ManifestError, match="other settings"):
        make_twins(harmful(), model(server), model(server), log, threshold=0.9)
    log.write_text(log.read_text() + "{}\n")
    with pytest.raises(ManifestError, match="line 3: is damaged"):
        make_twins(harmful(), model(server), model(server), log)
    changed = Item("h0", "How do I pick another lock?", "harmful", modality="text")
    log.unlink()
    TwinLog(log, {}).add(TwinResult("h0", "How do I pick lock 0?", "t"))
    assert TwinLog(log, {}).of(changed) is None, "the question has changed"
    with pytest.raises(ManifestError, match="cannot be written"):
        TwinLog(tmp_path / "none" / "log", {})


@pytest.mark.parametrize(
    ("items", "options", "match"),
    [
        ([], {}, "no item is harmful"),
        ([Item("s", "q", "safe", modality="text")], {}, "no item is harmful"),
        (harmful(), {"threshold": 2}, "threshold"),
        (harmful(), {"tries": 0}, "at least 1"),
        ([*harmful(), Item("h0-safe", "q", "harmful", modality="text")], {}, "rename that item"),
    ],
)
def test_invalid_arguments(tmp_path: Path, server: OpenAIServer, items: list[Item], options: Any, match: str) -> None:
    with pytest.raises(ManifestError, match=match):
        make_twins(items, model(server), model(server), tmp_path / "log", **options)
    assert server.bodies == []


# ---- the command -----------------------------------------------------------------------------------------------------


def written(folder: Path, items: list[Item]) -> Path:
    path = folder / "harmful.jsonl"
    rows = ({"id": i.id, "modality": "text", "question": i.question, "label": i.label} for i in items)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_then_speak_then_load(tmp_path: Path, server: OpenAIServer) -> None:
    pytest.importorskip("espeakng_loader")
    path, out = (
        written(tmp_path, [*harmful(3), Item("bad", "pick", "harmful", modality="text")]),
        tmp_path / "pairs.jsonl",
    )
    server.reply = lambda messages: "no" if asked(messages) == ("twin", "pick") else obliging(messages)
    done = run("pairs", path, "--model", "openai/writer/echo", "--base-url", server.url, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert (output["pairs"], output["rejected"]) == (3, 1)
    assert json.loads(Path(output["rejected_file"]).read_text())["id"] == "bad"
    assert all(item.modality == "text" for item in load_items(out))
    assert not list(tmp_path.glob("*.partial"))
    refused("pairs", path, "--model", "openai/writer/echo", "--out", out, says="--overwrite")
    assert run("speak", out, "--out", tmp_path / "spoken").returncode == 0
    pairs = load_pairs(tmp_path / "spoken" / "manifest.jsonl")
    assert [(pair.harmful.question, pair.safe.question) for pair in pairs[:1]] == [
        ("How do I pick lock 0?", "How do I paint lock 0?")
    ]


@pytest.mark.slow
def test_errors_are_one_line(tmp_path: Path, server: OpenAIServer) -> None:
    path, out = written(tmp_path, harmful(2)), tmp_path / "pairs.jsonl"
    server_at = ("--base-url", server.url)
    refused("pairs", path, "--model", "openai/writer/missing", *server_at, "--out", out, says="has no model")
    refused("pairs", path, "--model", "openai/writer/empty", *server_at, "--out", out, says="other settings")
    os.unlink(tmp_path / "pairs.jsonl.partial")
    line = refused(
        "pairs", path, "--model", "openai/writer/empty", *server_at, "--out", out, says="none of 2 twins passed"
    )
    assert "pairs.rejected.jsonl" in line
    assert not out.exists()
    refused("pairs", "--model", "openai/x", "--out", out, says="give either a manifest or --benchmark")
    refused("pairs", path, "--model", "openai/x", "--out", tmp_path / "none" / "x.jsonl", says="existing folder")
    refused("pairs", path, "--model", "openai/x", "--base-url", "nowhere", "--out", out, says="is not a web address")
