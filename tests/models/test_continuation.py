"""A prefix that is run once and continued gives what whole prompts give, or it is not shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sarsteer import AudioLanguageModel, user_turn
from sarsteer.audio import Clip
from sarsteer.errors import AudioError, MessageError
from sarsteer.models.activations import LastTokenCapture
from sarsteer.models.continuation import continue_prefix, endings, prefill, same_change
from tests.support.tiny import conversation


def turn(seed: int, text: str, seconds: float = 0.4) -> list[dict[str, Any]]:
    clip = conversation(seed, seconds)[0]["content"][0]["audio"]
    return user_turn(Clip(clip, 16_000, f"clip {seed}"), text)


def with_text(row: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The same clip, the very array, with another text."""
    return [{"role": "user", "content": [row[0]["content"][0], {"type": "text", "text": text}]}]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    # float32 sums in another order
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(b.detach().abs().max()))


def test_a_prefix_continues_to_what_the_whole_prompt_gives(tiny: AudioLanguageModel) -> None:
    prompts = tiny.prepare([turn(0, "Answer.", 0.3), turn(1, "Answer.", 0.7)])
    inputs = tiny.collate(prompts)
    whole = tiny.forward_base(inputs).last_hidden_state[:, -3:]
    prefix = prefill(tiny, inputs, drop=3)
    length = prefix.cache.get_seq_length()
    for _ in range(2):  # a continuation leaves the prefix as it was
        out = continue_prefix(tiny, prefix, inputs["input_ids"][:, -3:])
        close(out.last_hidden_state, whole)
        assert prefix.cache.get_seq_length() == length == prefix.mask.shape[1]
    assert prefix.nbytes > 0
    prefix.drop(2)
    assert prefix.cache.get_seq_length() == length - 2 == prefix.mask.shape[1]


def test_one_ending_continues_every_row(tiny: AudioLanguageModel) -> None:
    inputs = tiny.collate(tiny.prepare([turn(0, "Answer.", 0.3), turn(1, "Answer.", 0.7)]))
    prefix = prefill(tiny, inputs)
    tokens = torch.tensor([3, 5])
    one, each = (continue_prefix(tiny, prefix, t).last_hidden_state for t in (tokens, tokens.expand(2, 2)))
    assert torch.equal(one, each)


@pytest.mark.parametrize(
    ("plain", "prompted", "expected"),
    [
        ([1, 2, 3], [1, 2, 4, 5], ([3], [4, 5])),
        ([1, 2, 9], [1, 2, 7, 9], ([9], [7, 9])),
        ([1, 2], [1, 2, 3], ([2], [2, 3])),
        ([1, 2], [1, 2], ([2], [2])),
        ([1], [2], ([1], [2])),
    ],
)
def test_endings(plain: list[int], prompted: list[int], expected: tuple[list[int], list[int]]) -> None:
    found = endings(torch.tensor(plain), torch.tensor(prompted))
    assert tuple(ending.tolist() for ending in found) == expected


def test_paired_activations_share_the_prefix(tiny: AudioLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [turn(i, "Answer.", 0.3 + 0.2 * i) for i in range(3)]
    prompted = [with_text(row, "Answer. I cannot assist.") for row in plain]
    lengths: list[int] = []
    forward = tiny.forward_base

    def counted(inputs: dict[str, torch.Tensor], **more: Any) -> Any:
        lengths.append(inputs["input_ids"].shape[1])
        return forward(inputs, **more)

    monkeypatch.setattr(tiny, "forward_base", counted)
    first, second = tiny.paired_activations(plain, prompted)
    assert len(lengths) == 2
    assert lengths[1] < lengths[0] // 2, "the second arm runs its ending only"
    close(first, tiny.last_token_activations(plain))
    close(second, tiny.last_token_activations(prompted))


@pytest.mark.parametrize("case", ["other clip", "text before the clip", "another change", "another text"])
def test_arms_that_differ_otherwise_are_run_whole(tiny: AudioLanguageModel, case: str) -> None:
    plain = [turn(i, "Answer.") for i in range(2)]
    prompted = [with_text(row, "Answer. No.") for row in plain]
    if case == "other clip":
        prompted[1] = turn(9, "Answer. No.")
    elif case == "text before the clip":
        plain, prompted = (
            [[{"role": "user", "content": row[0]["content"][::-1]}] for row in arm] for arm in (plain, prompted)
        )
    elif case == "another change":
        prompted[1] = with_text(plain[1], "Answer. Never.")
    else:
        plain[1], prompted[1] = with_text(plain[1], "Say."), with_text(plain[1], "Say. No.")
    assert not same_change(plain, prompted)
    first, second = tiny.paired_activations(plain, prompted)
    close(first, tiny.last_token_activations(plain))
    close(second, tiny.last_token_activations(prompted))


def test_no_arms_have_no_activations(tiny: AudioLanguageModel) -> None:
    first, second = tiny.paired_activations([], [])
    assert first.shape == second.shape == (0, tiny.layer_count, tiny.hidden_size)


def test_a_bad_request_has_its_index(tiny: AudioLanguageModel) -> None:
    silent = user_turn(Clip(np.zeros(0, dtype=np.float32), 16_000, "empty"), "Answer.")
    for bad, kind in ((silent, AudioError), ([{"role": "user"}], MessageError)):
        with pytest.raises(kind, match=r"^conversation 1: ") as caught:
            tiny.paired_activations([turn(0, "Answer."), bad], [turn(0, "Answer. No."), bad])
        assert caught.value.index == 1
        assert not caught.value.message.startswith("conversation")


def test_captures_see_only_the_newest_forward(tiny: AudioLanguageModel) -> None:
    inputs = tiny.collate(tiny.prepare([turn(0, "Answer.")]))
    with LastTokenCapture(tiny.decoder_layers) as capture:
        prefix = prefill(tiny, inputs, drop=1)
        capture.activations()
        continue_prefix(tiny, prefix, inputs["input_ids"][:, -1:])
        found = capture.activations()
    close(found, tiny.last_token_activations([turn(0, "Answer.")]))
