"""Every way to call ``generate`` on a steered model is steered exactly, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer import AudioLanguageModel
from sarsteer.errors import SteeringError
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.strength import ResolvedStrength
from tests.support.reference import steered_by_hand
from tests.support.tiny import conversation, random_vectors, tiny_qwen2_audio

ALPHA = 0.7
IDS = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 8], [9, 10, 11, 12, 9, 10, 11, 12]])
MASK = torch.ones_like(IDS)


@pytest.fixture(scope="module")
def model() -> AudioLanguageModel:
    return tiny_qwen2_audio(seed=0)


@pytest.fixture(scope="module")
def other() -> AudioLanguageModel:
    return tiny_qwen2_audio(seed=0)


@pytest.fixture
def handle(model: AudioLanguageModel) -> Iterator[SteeringHandle]:
    with attach(model.module, model.decoder_layers, ResolvedStrength(random_vectors(model), ALPHA)) as attached:
        yield attached


def config(**options: Any) -> T.GenerationConfig:
    return T.GenerationConfig(max_new_tokens=4, do_sample=False, **options)


# ---- numbered bypasses of an audit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refused",
    [
        {"prompt_lookup_num_tokens": 3},
        {"use_cache": False},
        {"use_cache": 0},
        {"use_cache": np.False_},
        {"use_cache": None},
        {"guidance_scale": 1.5},
        {"guidance_scale": 0.5},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "high"},
        {"dola_layers": [1, 2]},
        {"assistant_early_exit": 2},
        {"prefill_chunk_size": 4},
        {"cache_implementation": "paged"},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"force_words_ids": [[5]], "num_beams": 2},
        {"token_healing": True},
    ],
)
@pytest.mark.parametrize("where", ["keywords", "config", "positional config", "model's config"])
def test_1_options_are_refused_wherever_they_are_given(
    model: AudioLanguageModel, handle: SteeringHandle, refused: dict[str, Any], where: str
) -> None:
    if where != "keywords" and refused.get("use_cache", 1) is None:
        pytest.skip("a configuration without use_cache gets transformers' default, True")
    if where == "model's config" and not refused.get("use_cache", True):
        pytest.skip("a given configuration's use_cache is True, and takes precedence")
    own = model.module.generation_config
    arguments: tuple[Any, ...] = (IDS,)
    keywords: dict[str, Any] = {"attention_mask": MASK}
    if where == "keywords":
        keywords |= {"max_new_tokens": 4, **refused}
    elif where == "config":
        keywords["generation_config"] = config(**refused)
    elif where == "positional config":
        arguments = (IDS, config(**refused))
    else:
        model.module.generation_config = T.GenerationConfig.from_dict({**own.to_dict(), **refused})
        keywords["generation_config"] = config()
    try:
        with pytest.raises(SteeringError, match="breaks steering"):
            model.module.generate(*arguments, **keywords)
    finally:
        model.module.generation_config = own


def test_1_a_positional_assistant_is_refused(
    model: AudioLanguageModel, other: AudioLanguageModel, handle: SteeringHandle
) -> None:
    with pytest.raises(SteeringError, match="assistant_model breaks steering"):
        model.module.generate(IDS, config(), None, None, None, None, other.module, attention_mask=MASK)


def test_2_negative_prompts_and_second_forwards_are_refused(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    with pytest.raises(SteeringError, match="negative_prompt_ids breaks steering"):
        model.module.generate(IDS, attention_mask=MASK, max_new_tokens=2, negative_prompt_ids=IDS, guidance_scale=1)
    guidance = T.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, model.module)
    with pytest.raises(SteeringError, match="ClassifierFreeGuidance"):
        model.module.generate(
            IDS, attention_mask=MASK, max_new_tokens=2, logits_processor=T.LogitsProcessorList([guidance])
        )
    with pytest.raises(SteeringError, match="custom_generate breaks steering"):
        model.module.generate(IDS, attention_mask=MASK, max_new_tokens=2, custom_generate=lambda *a, **k: IDS)


def test_2_a_guidance_scale_of_one_is_answered(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    plain = model.module.generate(IDS, attention_mask=MASK, generation_config=config())
    assert torch.equal(
        model.module.generate(IDS, attention_mask=MASK, generation_config=config(), guidance_scale=1), plain
    )


def test_4_right_padding_is_refused_in_every_form(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    ids, mask = IDS.clone(), MASK.clone()
    mask[0, -2:] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    allowed = (mask[:, None, None, :] * torch.ones(8, 8).tril()).bool()
    additive = torch.zeros(2, 1, 8, 8).masked_fill(~allowed, torch.finfo(torch.float32).min)
    static = T.StaticCache(config=model.module.config.get_text_config(), max_cache_len=16)
    longer = torch.cat([mask, torch.zeros(2, 8, dtype=mask.dtype)], dim=1)
    module = model.module
    for call in (
        lambda: module(ids, attention_mask=mask),
        lambda: module(ids, attention_mask=allowed),
        lambda: module(ids, attention_mask=additive),
        lambda: module(ids, position_ids=positions),
        lambda: module(ids, attention_mask=longer, past_key_values=static),
    ):
        with pytest.raises(SteeringError, match="right-padded"):
            call()


def test_4_left_padding_is_answered_in_every_form(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    mask = MASK.clone()
    mask[0, :3] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    allowed = (mask[:, None, None, :] * torch.ones(8, 8).tril()).bool() | torch.eye(8, dtype=torch.bool)
    with torch.no_grad():
        expected = model.module(IDS, attention_mask=mask, position_ids=positions).logits[:, -1]
        other_form = model.module(IDS, attention_mask=allowed, position_ids=positions).logits[:, -1]
    # both masks exclude the same keys for real tokens; kernels differ in the last bits of float32
    torch.testing.assert_close(other_form, expected, rtol=1e-4, atol=1e-4)


# ---- any call ------------------------------------------------------------------------------------------------------

OPTIONS = {
    "do_sample": st.booleans(),
    "num_beams": st.sampled_from([1, 2, 3]),
    "use_cache": st.sampled_from([True, False, 1, 0]),
    "prompt_lookup_num_tokens": st.sampled_from([None, 2]),
    "guidance_scale": st.sampled_from([None, 1, 1.5]),
    "penalty_alpha": st.sampled_from([None, 0.5]),
    "top_k": st.sampled_from([1, 5, 50]),
    "repetition_penalty": st.sampled_from([1.0, 1.2]),
    "cache_implementation": st.sampled_from([None, "static", "dynamic"]),
    "prefill_chunk_size": st.sampled_from([None, 4]),
    "no_repeat_ngram_size": st.sampled_from([0, 2]),
}


@settings(max_examples=40, deadline=None)
@given(
    chosen=st.fixed_dictionaries({}, optional=OPTIONS), positional=st.booleans(), in_config=st.booleans(),
    use_assistant=st.sampled_from([False, False, False, True]),
)  # fmt: skip
def test_any_call_equals_hooks_by_hand_or_is_refused(
    model: AudioLanguageModel,
    other: AudioLanguageModel,
    chosen: dict[str, Any],
    positional: bool,
    in_config: bool,
    use_assistant: bool,
) -> None:
    """The same call under hooks written by hand, in a copy of the model that has no guards, is the reference."""

    def answer(target: AudioLanguageModel) -> torch.Tensor:
        torch.manual_seed(0)
        options = dict(chosen)
        keywords: dict[str, Any] = {"attention_mask": MASK}
        arguments: tuple[Any, ...] = (IDS,)
        if in_config:
            settings_ = T.GenerationConfig(max_new_tokens=4, **options)
            arguments, keywords = ((IDS, settings_), keywords) if positional else (
                (IDS,), {**keywords, "generation_config": settings_}
            )  # fmt: skip
        else:
            keywords |= {"max_new_tokens": 4, **options}
        if use_assistant:
            keywords["assistant_model"] = other.module
        tokens: torch.Tensor = target.module.generate(*arguments, **keywords)
        return tokens

    vectors = random_vectors(model)
    unsteerable = (
        use_assistant
        or not chosen.get("use_cache", True)
        or any(chosen.get(name) for name in ("prompt_lookup_num_tokens", "penalty_alpha", "prefill_chunk_size"))
        or chosen.get("guidance_scale", 1) not in (None, 1)
    )
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        if unsteerable:
            with pytest.raises(SteeringError):
                answer(model)
            return
        steered = answer(model)
    with steered_by_hand(other.decoder_layers, vectors, ALPHA):
        assert torch.equal(answer(other), steered)


def test_a_call_that_does_not_bind_is_refused(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    with pytest.raises(SteeringError, match="cannot be called this way"):
        model.module.generate(IDS, inputs=IDS)


def test_spoken_requests_are_answered_as_before(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    assert len(model.generate([conversation(1)], max_new_tokens=3)) == 1
