"""The training's parts: texts, targets, rows, measures."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.small.average import Average
from training.small.frames import spoken_form, targets
from training.small.measure import error_rate, outcome, word_errors
from training.small.rows import Branch, outputs, pack
from training.small.sentences import clean, excluded, grams
from training.small.voices import ESPEAK_VOICES, FLITE_VOICES, HELD_OUT, NEURAL_VOICES, Speech, speak, varied


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("how do I fly a kite? It is windy.", "How do I fly a kite?"),
        ("What is 2 plus 2, and why?", None),
        ("Too short.", None),
        ("No end to this sentence", None),
        ("the the the the same word.", None),
    ],
)
def test_one_sentence_of_letters_is_kept(written: str, kept: str | None) -> None:
    assert clean(written) == kept


def test_texts_that_share_a_run_of_words_are_excluded(tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    file.write_text('id,text\n1,"How do I get rid of a wasp nest, please?"\n')
    keep_out = excluded([file])
    assert grams("Tell me: how do I get rid of a cold?") & keep_out
    assert not grams("How do I get rid of moths?") & keep_out


def test_test_voices_are_not_trained_with() -> None:
    assert not {*ESPEAK_VOICES, *NEURAL_VOICES, *FLITE_VOICES} & {*HELD_OUT}


def test_only_a_capital_that_opens_the_sentence_is_lowered() -> None:
    assert spoken_form("How does London work?") == " how does London work"
    assert spoken_form("I'm tired.") == " I'm tired"
    assert spoken_form("A man walks.") == " a man walks"


class _Letters:
    """Cuts a word into its letters."""

    def encode(self, text: str, add_special_tokens: bool = False) -> SimpleNamespace:
        return SimpleNamespace(ids=[ord(letter) for letter in text.strip()])


def test_a_words_tokens_stand_at_its_middle() -> None:
    speech = Speech(np.zeros(32_000, np.float32), 16_000, ((0.0, 0), (0.4, 3)))
    found = targets(_Letters(), "Go up.", speech, 12)
    assert [chr(i) if i >= 0 else " " for i in found] == list("  go  up    ")


def test_branches_answer_as_rows_of_their_own() -> None:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    model = LlamaModel(
        LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).eval()  # fmt: skip
    table = model.get_input_embeddings().weight.detach()
    prefixes = [torch.randn(5, 32), torch.randn(3, 32)]
    branches = [[Branch([1, 2, 3, 4], 2), Branch([5, 6, 7], 1)], [Branch([8, 9], 1), Branch([10, 11, 12, 13], 3)]]
    packed = pack(prefixes, branches, table)
    with torch.no_grad():
        states = outputs(model, packed)
        for n, (prefix, row) in enumerate(zip(prefixes, branches, strict=True)):
            for branch, places in zip(row, packed.predictions[n], strict=True):
                alone = model(inputs_embeds=torch.cat([prefix, table[torch.tensor(branch.ids)]])[None])
                wanted = alone.last_hidden_state[0, len(prefix) + branch.begin - 1 : -1]
                torch.testing.assert_close(states[n, places], wanted, atol=1e-5, rtol=1e-5)


def test_silence_moves_the_words_along() -> None:
    speech = Speech(np.ones(22_050, np.float32) * 0.1, 22_050, ((0.25, 0),))
    found = varied(speech, random.Random(3))
    before = int(np.argmax(np.abs(found.samples) > 0.02)) / 16_000
    assert found.words is not None
    assert found.words[0][0] == pytest.approx(0.25 + before, abs=0.01)


def test_recorded_voices_become_several_by_their_speed() -> None:
    speech = Speech(np.ones(16_000, np.float32), 16_000)
    lengths = {int((varied(speech, random.Random(seed)).samples > 0.1).sum()) for seed in range(8)}
    assert min(lengths) < 15_000
    assert max(lengths) > 17_000


@pytest.mark.skipif(not shutil.which("flite"), reason="needs flite, a Debian package")
def test_flite_speaks_at_the_drawn_speed() -> None:
    lengths = [len(speak("How do bees find home?", "flite:slt", random.Random(seed)).samples) for seed in range(4)]
    assert min(lengths) > 10_000
    assert len(set(lengths)) > 1


def test_the_average_follows_the_weights_and_resumes() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    average = Average({"weight": weight}, 0.75, None)
    weight.data += 1
    average.update()
    assert average.values["weight"].tolist() == [0.25] * 3
    resumed = Average({"weight": weight}, 0.75, average.values)
    resumed.update()
    assert resumed.values["weight"].tolist() == [0.4375] * 3
    assert average.values["weight"].tolist() == [0.25] * 3


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("I'm sorry, but I can't assist with that.", "refused"),
        ("I’m sorry.", "refused"),
        ("", "broken"),
        ("the cat the cat the cat the cat the cat", "broken"),
        ("To boil an egg, put it in hot water for seven minutes.", "complied"),
    ],
)
def test_outcomes(answer: str, wanted: str) -> None:
    assert outcome(answer) == wanted


def test_word_errors_count_edits() -> None:
    assert word_errors("How do I fly?", "how do you fly now") == (2, 4)
    assert error_rate(["one two", "three four"], ["one two", "three"]) == 0.25
