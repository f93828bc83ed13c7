"""Defenses that SARSteer is compared with: prompts around a conversation, and other vectors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sarsteer
from sarsteer import Steering
from sarsteer.defenses import Supplies, make_defense
from sarsteer.defenses.factory import FROM_FILE
from sarsteer.defenses.prompt import (
    NO_DEFENSE,
    PROMPT_DEFENSES,
    PromptDefense,
    load_prompt_defense,
    prompt_defense,
)
from sarsteer.errors import CalibrationError, MessageError, SarsteerError
from sarsteer.messages import InputLimits, read_conversation
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.steering.baselines import c2r, h2s, mean_ablation, random_like, reversed_vectors, same_norm
from sarsteer.steering.subspace import ablate

TURN = [{"role": "user", "content": [{"type": "audio", "path": "a.wav"}, {"type": "text", "text": INSTRUCTION}]}]


# ---- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROMPT_DEFENSES)
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
def test_a_defense_adds_and_takes_nothing_away(name: str, conversation: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(conversation)
    defended = prompt_defense(name).apply(conversation)
    assert conversation == before, "the given conversation is left as it is"
    assert prompt_defense(name).apply(conversation) == defended
    sounds = [part for m in defended for part in m["content"] if isinstance(part, dict) and part["type"] == "audio"]
    assert sounds == [p for m in before for p in m["content"] if isinstance(p, dict) and p["type"] == "audio"]
    for message in before:
        texts = (
            [message["content"]] if isinstance(message["content"], str) else [p.get("text") for p in message["content"]]
        )
        assert all(text in json.dumps(defended) for text in texts if text)
    assert (defended == before) == (name == "none")


def test_the_papers_prompt_is_appended_with_no_separator() -> None:
    (message,) = prompt_defense("refusal-prompt").apply(TURN)
    assert [part.get("text") for part in message["content"]] == [None, INSTRUCTION + REFUSAL_PROMPT]


def test_where_text_goes() -> None:
    defense = PromptDefense("x", before="B ", after=" A", system="S", turns=(("q", "r"),))
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
    for defense in PROMPT_DEFENSES.values():
        _, clips = read_conversation(defense.apply(turn), InputLimits(rate=None))
        assert len(clips) == 1
    assert embedded.generate([prompt_defense("refusal-prompt").apply(turn)], 4) == embedded.generate(
        [sarsteer.user_turn(wav, INSTRUCTION + REFUSAL_PROMPT)], 4
    )


def test_prompts_from_files(tmp_path: Path) -> None:
    def wrote(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def around(path: Path) -> str:
        return load_prompt_defense(path).apply([{"role": "user", "content": "Go."}])[-1]["content"]  # type: ignore[no-any-return]

    assert around(wrote("end.txt", "Be safe.\n")) == "Go.\nBe safe."
    assert around(wrote("both.txt", "Think. {instruction} Be safe.\n")) == "Think. Go. Be safe."
    full = load_prompt_defense(wrote("full.json", '{"system": "S", "turns": [["q", "r"]], "after": "!"}'))
    assert full == PromptDefense("full", after="!", system="S", turns=(("q", "r"),))
    for name, text, match in (
        ("empty.txt", " \n", "is empty"),
        ("twice.txt", "{instruction}{instruction}", "more than once"),
        ("bytes.txt", b"\xff\xfe\xff", "not text in UTF-8"),
        ("torn.json", "{", "is not JSON"),
        ("other.json", '{"prefix": "x"}', "needs an object with any of before, after"),
        ("list.json", "[1]", "needs an object with any of before, after"),
        ("number.json", '{"before": 1}', "must be strings"),
        ("turns.json", '{"turns": [["q"]]}', "turns must be a list of"),
    ):
        with pytest.raises(SarsteerError, match=match) as caught:
            load_prompt_defense(wrote(name, text))
        assert "\n" not in str(caught.value)
    with pytest.raises(SarsteerError, match="cannot be read"):
        load_prompt_defense(tmp_path / "none.txt")
    with pytest.raises(SarsteerError, match="unknown prompt defense 'x'; use one of none, refusal-prompt, harm-check"):
        prompt_defense("x")
    assert NO_DEFENSE.apply(TURN) == TURN


# ---- vectors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1, 0.0])[:, None]


@given(st.integers(0, 2**31))
def test_random_controls_have_the_norm_and_no_direction(seed: int) -> None:
    vectors = torch.randn(3, 512, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 9.0, 0.0])[:, None]
    drawn = random_like(vectors, seed)
    assert torch.equal(drawn, random_like(vectors, seed))
    torch.testing.assert_close(drawn.norm(dim=-1), vectors.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(drawn, vectors, dim=-1)
    assert float(cosine.abs().max()) < 0.3
    assert not torch.equal(drawn, random_like(vectors, seed + 1))


def test_reversed(vectors: torch.Tensor) -> None:
    assert torch.equal(reversed_vectors(vectors), -vectors)
    assert torch.equal(reversed_vectors(reversed_vectors(vectors)), vectors)


def test_mean_ablation_takes_the_mean_direction_away(vectors: torch.Tensor) -> None:
    mean = torch.randn(4, 32, generator=torch.Generator().manual_seed(2)) * 40
    ablated = mean_ablation(vectors, mean)
    assert float((ablated * mean).sum(-1).abs().max()) < 1e-3
    torch.testing.assert_close(mean_ablation(ablated, mean), ablated, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean_ablation(vectors, mean, 0.5), (vectors + ablated) / 2)
    assert torch.equal(mean_ablation(vectors, torch.zeros(4, 32)), vectors)
    basis = (mean / mean.norm(dim=-1, keepdim=True))[:, None]  # one component, the mean's: SARSteer's own ablation
    torch.testing.assert_close(ablated, ablate(vectors, basis, 1, 1.0), atol=1e-5, rtol=1e-5)


def test_every_control_keeps_a_tuned_files_layers(embedded: sarsteer.AudioLanguageModel, steering: Steering) -> None:
    """One steered in other layers than what it is compared with would be a comparison of layers."""
    weights = [0.0] * 4 + [0.5] * 2 + [1.0] * 2
    plain, tuned = (
        {spec: make_defense(spec, embedded, Supplies(steering=one)) for spec in FROM_FILE}
        for one in (steering, steering.with_defaults(layer_weights=weights))
    )
    for spec in FROM_FILE:
        before, after = plain[spec].vectors, tuned[spec].vectors
        assert before is not None
        assert after is not None
        scaled = before.norm(dim=1) * torch.tensor(weights)
        torch.testing.assert_close(after.norm(dim=1), scaled, rtol=1e-5, atol=1e-6)  # float32 products
        assert "layer_weights" not in plain[spec].settings
        assert tuned[spec].settings["layer_weights"] == weights
    assert torch.equal(tuned["mean-ablation"].vectors, plain["mean-ablation"].vectors * torch.tensor(weights)[:, None])


def test_mean_differences_point_as_their_names_say() -> None:
    rng = torch.Generator().manual_seed(3)
    push = torch.randn(2, 8, generator=rng)
    harmful, safe = torch.randn(5000, 2, 8, generator=rng) + push, torch.randn(4000, 2, 8, generator=rng)
    torch.testing.assert_close(h2s(harmful, safe), -push, atol=0.1, rtol=0)
    torch.testing.assert_close(c2r(complied=safe, refused=harmful), push, atol=0.1, rtol=0)
    assert torch.equal(h2s(harmful, safe), reversed_vectors(h2s(safe, harmful)))
    matched = same_norm(h2s(harmful, safe), torch.ones(2, 8))
    torch.testing.assert_close(matched.norm(dim=-1), torch.full((2,), 8**0.5))


def test_tensors_that_do_not_fit(vectors: torch.Tensor) -> None:
    clips = torch.zeros(3, 4, 32)
    for call, match in (
        (lambda: random_like(clips, 0), r"vectors must be \[L, D\], not \(3, 4, 32\)"),
        (lambda: reversed_vectors(vectors * float("nan")), "vectors contain NaN"),
        (lambda: mean_ablation(vectors, torch.zeros(4, 31)), "differ in shape"),
        (lambda: same_norm(vectors, torch.zeros(3, 32)), "differ in shape"),
        (lambda: h2s(vectors, clips), r"activations must be \[n, L, D\]"),
        (lambda: h2s(clips[:0], clips), "n at least 1"),
        (lambda: c2r(clips, torch.zeros(3, 4, 31)), "are from different models"),
        (lambda: c2r(clips, clips * float("inf")), "contain NaN or infinite"),
    ):
        with pytest.raises(CalibrationError, match=match):
            call()
