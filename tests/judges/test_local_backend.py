"""Judge models that run with transformers: batches, chat templates, broken checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from sarsteer.errors import JudgeError
from sarsteer.judges import parse_judge
from sarsteer.judges.local_backend import LocalBackend
from tests.judges.answers import REFUSED, item
from tests.judges.conftest import Make
from tests.support.judge_models import checkpoint


def test_batches_change_nothing(tmp_path: Path) -> None:
    """Random weights, nothing forced: a row's reply does not depend on its company."""
    folder = str(checkpoint(tmp_path / "judge", "Mistral"))
    texts = ["a", "Is this a longer text than the others?", "short one", "b" * 70]
    alone = LocalBackend(folder, batch_size=1, device="cpu").complete(texts, 6)
    together = LocalBackend(folder, batch_size=4, device="cpu").complete(texts, 6)
    assert alone == together


@pytest.mark.parametrize(
    ("template", "match"),
    [
        (None, "the tokenizer has no chat template; use the model's instruct version"),
        ("{{ messages[0]['content'] }}", "it leaves out the judged text"),
        ("{{ raise_exception('roles\nmust alternate') }}", "roles must alternate"),
    ],
)
def test_chat_templates_that_reject_the_conversation(make: Make, template: str | None, match: str) -> None:
    judge, _ = make("llama-guard", {"": "safe"}, template=template)
    with pytest.raises(JudgeError, match=match) as caught:
        judge.judge([item(REFUSED)])
    assert "\n" not in str(caught.value)


def test_broken_checkpoints(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(JudgeError, match=r"the folder has no config.json; give one that save_pretrained wrote"):
        parse_judge(f"llama-guard:{empty}").load()
    folder = checkpoint(tmp_path / "judge")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JudgeError, match=r"1 weights are missing \(model.layers.1.mlp.up_proj.weight, ...\)"):
        parse_judge(f"llama-guard:{folder}").load()
