"""Prompts and properties of ``VllmActivationSource``, without an engine."""

from __future__ import annotations

import pytest

import sarsteer
from sarsteer import tiny
from sarsteer.data.pairs import Pairs
from sarsteer.errors import MessageError, ModelError
from sarsteer.models.activation_source import ActivationSource
from sarsteer.vllm.calibration.activation_source import VllmActivationSource, skeleton_of


@pytest.fixture(scope="module")
def source() -> VllmActivationSource:
    """Without an engine, which only reads activations."""
    source = VllmActivationSource.__new__(VllmActivationSource)
    source.name, source.revision, source.folder = tiny.NAME, None, tiny.model_folder()
    source.skeleton = skeleton_of(source.folder, source.name, None)
    return source


def test_it_describes_the_same_model(source: VllmActivationSource, embedded: sarsteer.AudioLanguageModel) -> None:
    by_vllm: ActivationSource = source
    by_transformers: ActivationSource = embedded
    for name in ("name", "family_name", "layer_count", "hidden_size", "steered"):
        assert getattr(by_vllm, name) == getattr(by_transformers, name), name
    by_vllm.check_steerable()


def test_prompts_have_the_transformers_engines_tokens(
    source: VllmActivationSource, embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs
) -> None:
    """vLLM expands the placeholder; the tokens around it are the same."""
    turns = [item.turn("What is this?") for item in calibration_pairs.harmful[:3]]
    placeholder = embedded.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    for ours, theirs in zip(source.prepare(turns), embedded.prepare(turns), strict=True):
        assert len(ours.clips) == 1
        assert ours.token_ids.count(placeholder) == 1
        rest = [token for token in theirs.input_ids.tolist() if token != placeholder]
        assert [token for token in ours.token_ids if token != placeholder] == rest


def test_an_error_has_the_index_of_its_conversation(source: VllmActivationSource, calibration_pairs: Pairs) -> None:
    good = calibration_pairs[0].harmful.turn("Hello")
    with pytest.raises(MessageError, match="conversation 1: ") as caught:
        source.prepare([good, [{"role": "user"}]])
    assert caught.value.index == 1
    with pytest.raises(MessageError, match="conversation 1: ") as caught:
        source.prepare([good, [{"role": "user", "content": "<|im_end|>"}]])
    assert caught.value.index == 1


def test_a_family_with_its_own_prompts_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    import transformers

    folder = tmp_path_factory.mktemp("voxtral")
    transformers.VoxtralConfig(architectures=["VoxtralForConditionalGeneration"]).save_pretrained(folder)
    with pytest.raises(ModelError, match="a-model: VoxtralForConditionalGeneration cannot be calibrated inside vLLM"):
        skeleton_of(folder, "a-model", None)
