"""Prompts: what is added to a conversation, and prompts from files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import sarsteer
from sarsteer.defenses import DEFENSES
from sarsteer.defenses.prompt_texts import PROMPT_TEXTS
from sarsteer.defenses.rewrite import NO_REWRITE, PromptRewrite, load_rewrite
from sarsteer.errors import EvaluationError, MessageError, SarsteerError
from sarsteer.messages import InputLimits, read_conversation
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT

TURN = [{"role": "user", "content": [{"type": "audio", "path": "a.wav"}, {"type": "text", "text": INSTRUCTION}]}]


# ---- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewrite", [NO_REWRITE, *PROMPT_TEXTS.values()], ids=lambda rewrite: rewrite.name)
@pytest.mark.parametrize(
    "conversation",
    [
        TURN,
        [{"role": "user", "content": "Hello"}],
        [{"role": "user", "content": [{"type": "audio", "path": "a.wav"}]}],
        [{"role": "system", "content": "Be kind."}, *TURN],
        [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}, *TURN],
        [*TURN, {"role": "assistant", "content": "Yes?"}, *TURN],
    ],
)
def test_a_rewrite_adds_and_removes_nothing(rewrite: PromptRewrite, conversation: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(conversation)
    defended = rewrite.apply(conversation)
    assert conversation == before, "the given conversation is left as it is"
    assert rewrite.apply(conversation) == defended
    sounds = [part for m in defended for part in m["content"] if isinstance(part, dict) and part["type"] == "audio"]
    assert sounds == [p for m in before for p in m["content"] if isinstance(p, dict) and p["type"] == "audio"]
    for message in before:
        texts = (
            [message["content"]] if isinstance(message["content"], str) else [p.get("text") for p in message["content"]]
        )
        assert all(text in json.dumps(defended) for text in texts if text)
    assert (defended == before) == (rewrite is NO_REWRITE)


def test_the_papers_prompt_is_appended_with_no_separator() -> None:
    (message,) = PROMPT_TEXTS["refusal-prompt"].apply(TURN)
    assert [part.get("text") for part in message["content"]] == [None, INSTRUCTION + REFUSAL_PROMPT]


def test_where_text_goes() -> None:
    defense = PromptRewrite("x", before="B ", after=" A", system="S", turns=(("q", "r"),))
    earlier = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "yes"}]
    assert defense.apply([{"role": "system", "content": "old"}, *earlier, {"role": "user", "content": "now"}]) == [
        {"role": "system", "content": "old\n\nS"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "r"},
        *earlier,
        {"role": "user", "content": "B now A"},
    ]
    sound = {"type": "audio", "path": "a.wav"}
    assert defense.apply([{"role": "user", "content": [sound]}])[-1]["content"] == [
        sound,
        {"type": "text", "text": "B  A"},
    ]
    with pytest.raises(MessageError, match="'x': the conversation has no user message; add one"):
        defense.apply([{"role": "system", "content": "old"}])


def test_models_take_defended_conversations(wav: Path, embedded: sarsteer.AudioLanguageModel) -> None:
    turn = sarsteer.user_turn(wav, INSTRUCTION)
    for defense in PROMPT_TEXTS.values():
        _, clips = read_conversation(defense.apply(turn), InputLimits(rate=None))
        assert len(clips) == 1
    assert embedded.generate([PROMPT_TEXTS["refusal-prompt"].apply(turn)], 4) == embedded.generate(
        [sarsteer.user_turn(wav, INSTRUCTION + REFUSAL_PROMPT)], 4
    )


def test_prompts_from_files(tmp_path: Path) -> None:
    def wrote(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def around(path: Path) -> str:
        return load_rewrite(path).apply([{"role": "user", "content": "Go."}])[-1]["content"]  # type: ignore[no-any-return]

    assert around(wrote("end.txt", "Be safe.\n")) == "Go.\nBe safe."
    assert around(wrote("both.txt", "Think. {instruction} Be safe.\n")) == "Think. Go. Be safe."
    full = load_rewrite(wrote("full.json", '{"system": "S", "turns": [["q", "r"]], "after": "!"}'))
    assert full == PromptRewrite("full", after="!", system="S", turns=(("q", "r"),))
    for name, text, match in (
        ("empty.txt", " \n", "is empty"),
        ("twice.txt", "{instruction}{instruction}", "more than once"),
        ("bytes.txt", b"\xff\xfe\xff", "not UTF-8 text"),
        ("torn.json", "{", "is not valid JSON"),
        ("other.json", '{"prefix": "x"}', "an object with any of before, after"),
        ("list.json", "[1]", "an object with any of before, after"),
        ("number.json", '{"before": 1}', "must be strings"),
        ("turns.json", '{"turns": [["q"]]}', "turns must be a list of"),
    ):
        with pytest.raises(SarsteerError, match=match) as caught:
            load_rewrite(wrote(name, text))
        assert "\n" not in str(caught.value)
    with pytest.raises(SarsteerError, match="cannot be read"):
        load_rewrite(tmp_path / "none.txt")
    with pytest.raises(EvaluationError, match="neither a built-in prompt nor a file; use one of ada, harm-check"):
        DEFENSES.parse("prompt:x")
    assert NO_REWRITE.apply(TURN) == TURN
