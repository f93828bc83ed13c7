"""Specs of judges: options, errors, keys, and signatures that must not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from sarsteer.errors import JudgeError, ModelError
from sarsteer.judges import JUDGES, parse_judge
from sarsteer.judges.rubric import RubricJudge

KEY = "sk-secret"


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (
            "gpt",
            "unknown judge 'gpt'; use one of air-bench, embedded, keywords, llama-guard, rubric, sorry-bench, wild",
        ),
        ("", "unknown judge ''"),
        ("keywords:x", "judge 'keywords:x': unknown option 'x'; its options: none"),
        ("rubric", "judge 'rubric' needs model; write rubric:MODEL"),
        ("rubric:openai/x,devise=cpu", "judge 'rubric:openai/x,devise=cpu': unknown option 'devise'; its options: mod"),
        ("rubric:openai/x,device=cpu", "rubric: openai/x runs behind an endpoint and takes no device; leave it out"),
        ("rubric:x,timeout=3", "rubric: x runs locally and takes no timeout; leave it out"),
        ("rubric:openai/x,timeout=soon", "timeout must be a finite number, not 'soon'"),
        ("rubric:openai/x,batch_size=0", "rubric: batch_size must be at least 1, not 0"),
        ("sorry-bench:openai/x,prompts=p", "sorry-bench: openai/x is an endpoint, and this judge runs locally"),
    ],
)
def test_a_wrong_spec_is_an_error_when_it_is_parsed(spec: str, match: str) -> None:
    with pytest.raises(JudgeError, match=match) as caught:
        parse_judge(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (
            "llama-guard:/nowhere/at/all",
            "unknown judge model '/nowhere/at/all': not a folder, and not reachable on the",
        ),
        ("llama-guard:openai/x,prompts=/no/file", "/no/file: cannot be read"),
        ("sorry-bench:here,prompts=/no/file", "/no/file: cannot be read"),
        ("sorry-bench:here", "sorry-bench: needs the benchmark's judge_prompts.jsonl; add prompts=FILE"),
    ],
)
def test_a_missing_file_is_an_error_when_the_judge_is_loaded(
    spec: str, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge = parse_judge(spec)
    with pytest.raises(JudgeError, match=match) as caught:
        judge.load()
    assert "\n" not in str(caught.value)


def test_a_key_is_required_and_never_part_of_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = parse_judge("rubric:openai/x")
    with pytest.raises(ModelError, match="there is no API key; set OPENAI_API_KEY"):
        judge.load()
    with pytest.raises(JudgeError, match="judge 'rubric': logs would contain api_key; set OPENAI_API_KEY instead"):
        parse_judge(f"rubric:openai/x,api_key={KEY}")
    given = RubricJudge("openai/x", api_key=KEY)
    assert JUDGES.spec_of(given) == "rubric:openai/x"
    assert KEY not in repr(given)


@pytest.mark.parametrize(
    "spec",
    [
        "keywords",
        "embedded",
        "rubric:openai/gpt-x",
        "rubric:openai/gpt-x,base_url=http://localhost:8000/v1,timeout=30,max_retries=0,token_limit_key=max_tokens",
        "wildguard:./guard,device=cuda:1,dtype=bfloat16,revision=main,batch_size=4,prompts=guard.txt",
        "sorry-bench:sorry-bench/judge,prompts=judge_prompts.jsonl,prompt_name=base",
        "air-bench:openai/gpt-4",
        "llama-guard:meta-llama/Llama-Guard-3-8B",
    ],
)
def test_specs_stay_valid(spec: str) -> None:
    judge = parse_judge(spec)
    assert parse_judge(JUDGES.spec_of(judge)) == judge
    assert set(JUDGES.spec_of(judge).split(",")) == set(spec.split(","))


def test_signatures_do_not_change(tmp_path: Path) -> None:
    """They key cached verdicts: a change means that every answer is judged again."""
    (tmp_path / "prompts.txt").write_text("{question} {answer}")
    digests = {
        "rubric": "485ec3fcc88c531ee0edeadc5b0135fb75b2125874d198e7a093e460de143458",
        "air-bench": "b2a54c6d43377a730be679efb1f7eac09b53fa2edb892b663ee5ede3a599e72c",
        "template": "d027a215c7cdf0a6ed5e0448d768961036cbeeebbe67b319197709549980dfeb",
    }
    for spec, signature in (
        ("keywords", "keywords/2"),
        ("embedded", "embedded/3"),
        (
            "rubric:openai/x,timeout=9,base_url=http://Host:8000/v1/",
            f"rubric/1/openai/x@http://host:8000/v1/{digests['rubric']}",
        ),
        ("air-bench:./y", f"air-bench/1/./y/{digests['air-bench']}"),
        ("llama-guard:z", "llama-guard/1/z/"),
        (f"wildguard:z,prompts={tmp_path}/prompts.txt", f"wildguard/1/z/{digests['template']}"),
        (f"sorry-bench:z,prompts={tmp_path}/prompts.txt", f"sorry-bench/1/z/{digests['template']}"),
    ):
        assert parse_judge(spec).signature == signature, spec


def test_item_7_the_server_and_the_revision_are_in_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts of one server, or of one revision of the weights, are not reused for another."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    remote = parse_judge("rubric:openai/x")
    assert "openai/x@https://api.openai.com/v1" in remote.signature
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:secret@other/v1")
    signature = parse_judge("rubric:openai/x").signature
    assert "openai/x@http://other/v1" in signature
    assert "secret" not in signature
    signatures = [parse_judge(f"llama-guard:z{revision}").signature for revision in ("", ",revision=a", ",revision=b")]
    assert len(set(signatures)) == 3


@pytest.mark.parametrize("more", ["", ",bogus=1", ",timeout=9,timeout=8"])
def test_item_7_a_password_in_a_spec_is_refused_and_not_quoted(more: str) -> None:
    with pytest.raises(JudgeError, match="set OPENAI_BASE_URL instead") as caught:
        parse_judge(f"rubric:openai/x,base_url=http://me:secret@host/v1{more}")
    assert "secret" not in str(caught.value)
    cls, _ = JUDGES.find("rubric")
    with pytest.raises(JudgeError, match="contains a password") as caught:
        cls("openai/x", base_url="http://me:secret@host/v1")
    assert "secret" not in str(caught.value)


def test_how_many_items_at_once() -> None:
    assert parse_judge("rubric:openai/x").at_once == 16
    assert parse_judge("rubric:openai/x,batch_size=3").at_once == 3
    assert parse_judge("air-bench:openai/x,batch_size=3").at_once == 1
    assert parse_judge("rubric:x").at_once == 64
    assert parse_judge("rubric:x,batch_size=3").at_once == 24


def test_which_judges_score() -> None:
    assert [name for name, cls in JUDGES.classes().items() if cls.scoring] == ["air-bench"]
