"""Steering a model: exactly the last position, under all conditions, or an error before the first answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T

import sarsteer
from sarsteer import AudioLanguageModel
from sarsteer.errors import SteeringError
from sarsteer.models.activations import LastTokenCapture
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.strength import ResolvedStrength
from tests.steering.test_artifact import small_steering
from tests.support.reference import steered_by_hand
from tests.support.tiny import compile_config, conversation, random_vectors, tiny_qwen2_audio

ALPHA = 0.7


@pytest.fixture
def model() -> AudioLanguageModel:
    return tiny_qwen2_audio(seed=0)


@pytest.fixture
def vectors(model: AudioLanguageModel) -> torch.Tensor:
    return random_vectors(model)


@pytest.fixture
def handle(model: AudioLanguageModel, vectors: torch.Tensor) -> Iterator[SteeringHandle]:
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)) as attached:
        yield attached


TURNS = [conversation(seed, seconds) for seed, seconds in ((1, 0.3), (2, 0.8), (3, 0.5))]


def inputs_of(model: AudioLanguageModel) -> dict[str, torch.Tensor]:
    return model.collate(model.prepare(TURNS))


@torch.no_grad()
def logits(model: AudioLanguageModel) -> torch.Tensor:
    inputs = inputs_of(model)
    inputs.pop("input_ids")
    return model.module(**inputs).logits


def test_only_the_last_position_changes_in_prefill(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    plain = logits(model)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        steered = logits(model)
    assert torch.equal(plain[:, :-1], steered[:, :-1])
    assert not torch.allclose(plain[:, -1], steered[:, -1])


def test_the_sum_at_one_layer_is_exact(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    only = torch.zeros_like(vectors)
    only[0] = vectors[0]
    plain = model.last_token_activations(TURNS)
    with attach(model.module, model.decoder_layers, ResolvedStrength(only, ALPHA)):
        steered = model.last_token_activations(TURNS)
    assert torch.equal(steered[:, 0], plain[:, 0] + ALPHA * vectors[0])


def test_removal_restores_bit_equal_logits(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    plain, state = logits(model), set(model.module.state_dict())
    handle = attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA))
    assert set(model.module.state_dict()) == state, "buffers are not saved with the model"
    assert not torch.equal(logits(model), plain)
    handle.remove()
    handle.remove()
    assert torch.equal(logits(model), plain)
    assert "generate" not in vars(model.module)
    assert not [hook for module in model.module.modules() for hook in module._forward_hooks]
    assert not [hook for module in model.module.modules() for hook in module._forward_pre_hooks]


def test_alpha_changes_in_place(model: AudioLanguageModel, vectors: torch.Tensor, handle: SteeringHandle) -> None:
    with_alpha = logits(model)
    buffers = [layer._sarsteer_delta for layer in model.decoder_layers]
    handle.alpha = 0
    zero = logits(model)
    handle.alpha = ALPHA
    assert torch.equal(logits(model), with_alpha)
    assert all(a is b._sarsteer_delta for a, b in zip(buffers, model.decoder_layers, strict=True))
    handle.apply(ResolvedStrength(2 * vectors, ALPHA / 2))
    assert torch.allclose(logits(model), with_alpha, atol=1e-6)
    handle.remove()
    assert torch.equal(logits(model), zero)
    with pytest.raises(SteeringError, match="was removed"):
        handle.alpha = 1.0


def test_batch_equals_single(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    together = model.generate(TURNS, max_new_tokens=12)
    assert together == [model.generate([turn], max_new_tokens=12)[0] for turn in TURNS]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_sums_in_float32(dtype: torch.dtype) -> None:
    model = tiny_qwen2_audio(seed=0)
    model.module.to(dtype)
    vectors = torch.randn(len(model.decoder_layers), model.hidden_size)
    prompts = model.prepare(TURNS)
    ours, by_hand = [], []
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, 0.3)):
        ours = model.last_token_activations(prompts)
    with steered_by_hand(model.decoder_layers, vectors, 0.3):
        by_hand = model.last_token_activations(prompts)
    assert torch.equal(ours, by_hand)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "temperature": 1.3},
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"repetition_penalty": 1.3},
    ],
    ids=lambda o: ",".join(o) or "greedy",
)
def test_generation_modes_equal_hooks_by_hand(
    model: AudioLanguageModel, vectors: torch.Tensor, options: dict[str, object]
) -> None:
    prompts = model.prepare(TURNS)

    def run() -> list[str]:
        torch.manual_seed(7)
        return model.generate(prompts, max_new_tokens=10, **options)

    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        ours = run()
    with steered_by_hand(model.decoder_layers, vectors, ALPHA):
        by_hand = run()
    assert ours == by_hand
    assert ours != run()


@pytest.mark.slow
def test_compiled_decode_with_a_static_cache(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    """Also if it was compiled before: graphs that are not dropped lack hooks added later."""
    prompts = model.prepare(TURNS[:1])
    options = {"cache_implementation": "static", "compile_config": compile_config()}
    eager = model.generate(prompts, max_new_tokens=8)
    assert model.generate(prompts, max_new_tokens=8, **options) == eager
    with steered_by_hand(model.decoder_layers, vectors, ALPHA):
        by_hand = model.generate(prompts, max_new_tokens=8)
    assert by_hand != eager
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)) as handle:
        assert model.generate(prompts, max_new_tokens=8, **options) == by_hand
        handle.alpha = 0.0
        assert model.generate(prompts, max_new_tokens=8, **options) == eager
        handle.alpha = ALPHA
        assert model.generate(prompts, max_new_tokens=8, **options) == by_hand
    assert model.generate(prompts, max_new_tokens=8, **options) == eager


@pytest.mark.slow
def test_torch_compile_before_and_after_attaching(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    inputs = inputs_of(model)
    inputs.pop("input_ids")
    plain = logits(model)
    with steered_by_hand(model.decoder_layers, vectors, ALPHA):
        by_hand = logits(model)
    compiled = torch.compile(model.module, backend="eager")
    with torch.no_grad():
        assert torch.allclose(compiled(**inputs).logits, plain, atol=1e-5)
        with attach(compiled, sarsteer.find_decoder_layers(compiled), ResolvedStrength(vectors, ALPHA)):
            assert torch.allclose(compiled(**inputs).logits, by_hand, atol=1e-5)
        assert torch.allclose(compiled(**inputs).logits, plain, atol=1e-5)
        with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
            later = torch.compile(model.module, backend="eager")
            assert torch.allclose(later(**inputs).logits, by_hand, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_decode_step_is_one_graph_that_follows_alpha(
    model: AudioLanguageModel, vectors: torch.Tensor
) -> None:
    config, ids = model.module.config.get_text_config(), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])

    def decoded(run: Any) -> torch.Tensor:
        cache = T.StaticCache(config=config, max_cache_len=8)
        step = {"input_ids": ids[:, -1:], "position_ids": torch.full((2, 1), 4), "attention_mask": torch.ones(2, 5)}
        with torch.no_grad():
            model.module(input_ids=ids, past_key_values=cache, use_cache=True)
            return run(**step, past_key_values=cache, use_cache=True).logits  # type: ignore[no-any-return]

    plain = decoded(model.module)
    torch._dynamo.reset()
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)) as handle:
        compiled = torch.compile(model.module, backend="eager", fullgraph=True, dynamic=False)
        steered = decoded(model.module)
        assert not torch.allclose(steered, plain, atol=1e-3)
        assert torch.allclose(decoded(compiled), steered, atol=1e-5)
        handle.alpha = 2 * ALPHA
        other = decoded(model.module)
        assert not torch.allclose(other, steered, atol=1e-3)
        with torch.compiler.set_stance("fail_on_recompile"):
            assert torch.allclose(decoded(compiled), other, atol=1e-5)
    torch._dynamo.reset()


def test_a_layer_whose_forward_is_replaced_is_refused(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    layer, plain = model.decoder_layers[1], logits(model)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)) as handle:
        steered = logits(model)
        del layer.forward  # as when accelerate's hooks are removed
        with pytest.raises(SteeringError, match="was replaced after steering was attached"):
            logits(model)
        with pytest.raises(SteeringError, match="was replaced after steering was attached"):
            model.generate(TURNS[:1], max_new_tokens=2)
        with pytest.raises(SteeringError, match="was replaced after steering was attached"):
            handle.prove_rows()
    assert torch.equal(logits(model), plain)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        inner = layer.forward
        layer.forward = lambda *args, **kwargs: inner(*args, **kwargs)  # as when accelerate's hooks are added
    assert torch.equal(logits(model), plain)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        assert torch.equal(logits(model), steered)
    del layer.forward
    assert torch.equal(logits(model), plain)


def test_other_captures_see_steered_activations(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    prompts = model.prepare(TURNS)
    with LastTokenCapture(model.decoder_layers) as early:
        with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)), torch.no_grad():
            model.forward_base(model.collate(prompts))
        seen = early.activations()
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        assert torch.equal(model.last_token_activations(prompts), seen)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
        ({"prefill_chunk_size": 4}, "prefill_chunk_size"),
        ({"assistant_model": object()}, "assistant_model"),
        ({"assistant_early_exit": 2}, "assistant_early_exit"),
        ({"use_cache": False}, "use_cache"),
        ({"custom_generate": "someone/loop"}, "custom_generate"),
        ({"generation_config": T.GenerationConfig(prefill_chunk_size=4)}, "prefill_chunk_size"),
        ({"generation_config": T.GenerationConfig(use_cache=False)}, "use_cache"),
    ],
)
def test_options_that_break_the_last_position_are_refused_by_name(
    model: AudioLanguageModel, handle: SteeringHandle, options: dict[str, object], named: str
) -> None:
    with pytest.raises(SteeringError, match=named):
        model.generate(TURNS, max_new_tokens=2, **options)
    with pytest.raises(SteeringError, match=named):
        model.module.generate(**inputs_of(model), max_new_tokens=2, **options)


def test_the_model_s_generation_config_is_checked(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    model.module.generation_config.prompt_lookup_num_tokens = 3
    with pytest.raises(SteeringError, match="prompt_lookup_num_tokens"):
        model.generate(TURNS, max_new_tokens=2)


def test_continuous_batching_is_refused_while_steered(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    with pytest.raises(SteeringError, match="generate_batch"):
        model.module.generate_batch([[1, 2, 3]])
    handle.remove()
    assert "generate_batch" not in vars(model.module)


def test_right_padding_is_refused(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with pytest.raises(SteeringError, match="right-padded"):
        model.module(input_ids=ids, attention_mask=mask)
    with pytest.raises(SteeringError, match="right-padded"):
        model.module.generate(input_ids=ids, attention_mask=mask, max_new_tokens=1)


def test_attaching_twice_is_refused(model: AudioLanguageModel, vectors: torch.Tensor, handle: SteeringHandle) -> None:
    with pytest.raises(SteeringError, match="already steered"):
        attach(model.module, model.decoder_layers, ResolvedStrength(vectors, 0.1))
    with pytest.raises(SteeringError, match="already steered"):
        attach(torch.compile(model.module, backend="eager"), model.decoder_layers, ResolvedStrength(vectors, 0.1))
    assert handle.attached


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf, True])
def test_alpha_must_be_a_finite_number(model: AudioLanguageModel, vectors: torch.Tensor, alpha: float) -> None:
    with pytest.raises(SteeringError, match="alpha must be"):
        attach(model.module, model.decoder_layers, ResolvedStrength(vectors, alpha))
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, 0.1)) as handle:
        with pytest.raises(SteeringError, match="alpha must be"):
            handle.alpha = alpha
        assert handle.alpha == 0.1


def test_bad_vectors_are_refused_and_the_model_is_unchanged(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    before = logits(model)
    bad = vectors.clone()
    bad[0, 0] = math.nan
    for wrong, match in ((bad, "NaN"), (vectors[:-1], "decoder layers"), (vectors[0], "one per decoder layer")):
        with pytest.raises(SteeringError, match=match):
            attach(model.module, model.decoder_layers, ResolvedStrength(wrong, 0.1))
    assert torch.equal(logits(model), before)


def test_layers_that_do_not_run_fail_the_proof(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    """Steering the wrong modules must not count as steering the model."""
    other = tiny_qwen2_audio(seed=0)
    before = logits(model)
    with pytest.raises(SteeringError, match="did not run in a prefill"):
        attach(model.module, other.decoder_layers, ResolvedStrength(vectors, ALPHA))
    assert torch.equal(logits(model), before)
    attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)).remove()


def test_a_hook_that_undoes_steering_fails_the_proof(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    tampering = model.decoder_layers[2].register_forward_hook(lambda _m, _a, output: output * 0)
    with pytest.raises(SteeringError, match="decoder layer 2 did not steer exactly"):
        attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA))
    tampering.remove()


def test_an_error_inside_on_still_removes_the_steering() -> None:
    model = tiny_qwen2_audio(seed=0)
    before = logits(model)
    with pytest.raises(KeyError), small_steering(model).on(model, alpha=0.5):
        raise KeyError
    assert torch.equal(logits(model), before)


def test_one_line_defends_a_bare_transformers_model(model: AudioLanguageModel) -> None:
    steering = small_steering(model)
    inputs = inputs_of(model)
    bare = model.module
    plain = bare.generate(**inputs, max_new_tokens=6, do_sample=False)
    with steering.on(bare, alpha=2.0, k=0):
        steered = bare.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert not torch.equal(plain, steered)
    with steered_by_hand(model.decoder_layers, steering.vectors(k=0), 2.0):
        assert torch.equal(bare.generate(**inputs, max_new_tokens=6, do_sample=False), steered)


def test_device_map_places_the_vectors_with_their_layers(tmp_path: object, vectors: torch.Tensor) -> None:
    """accelerate replaces ``forward`` on instances; the hooks must see its output."""
    source = tiny_qwen2_audio(seed=0)
    source.module.save_pretrained(str(tmp_path))
    mapped = T.Qwen2AudioForConditionalGeneration.from_pretrained(str(tmp_path), device_map={"": "cpu"}).eval()
    model = AudioLanguageModel(mapped, source.processor)
    with attach(source.module, source.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        expected = logits(source)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        assert torch.allclose(logits(model), expected, atol=1e-5)


def test_an_offloaded_layer_is_steered_where_it_computes(tmp_path: object, vectors: torch.Tensor) -> None:
    import json
    from pathlib import Path

    folder = Path(str(tmp_path))
    source = tiny_qwen2_audio(seed=0)
    source.module.save_pretrained(folder / "model")
    names = {"model.audio_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
    names |= {f"model.language_model.{part}": "cpu" for part in ("embed_tokens", "norm", "rotary_emb")}
    names |= {f"model.language_model.layers.{i}": "cpu" if i else "disk" for i in range(4)}
    mapped = T.Qwen2AudioForConditionalGeneration.from_pretrained(
        folder / "model", device_map=names, offload_folder=str(folder / "offload")
    ).eval()
    assert json.dumps(mapped.hf_device_map)
    model = AudioLanguageModel(mapped, source.processor)
    with attach(source.module, source.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        expected = logits(source)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        assert torch.allclose(logits(model), expected, atol=1e-5)


def test_streaming(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    pieces: list[str] = []

    class Streamer(T.TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)

    turn = [conversation(1)]
    whole = model.generate(turn, max_new_tokens=8)
    streamed = model.generate(turn, max_new_tokens=8, streamer=Streamer(model.tokenizer, skip_prompt=True))
    assert whole == streamed
    assert "".join(pieces).strip() == whole[0]


def test_inference_mode(model: AudioLanguageModel, vectors: torch.Tensor) -> None:
    with torch.inference_mode():
        handle = attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA))
        inside = logits(model)
    handle.alpha = 0.0
    handle.alpha = ALPHA
    assert torch.equal(logits(model), inside)
    handle.remove()


def test_gradients_flow_through_steering(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    """Adaptive attacks differentiate through the hooks."""
    inputs = inputs_of(model)
    embeds = inputs["inputs_embeds"].clone().requires_grad_()
    model.module(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits[:, -1].sum().backward()
    assert embeds.grad is not None
    assert float(embeds.grad.abs().sum()) > 0


def test_alpha_can_be_a_numpy_number(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    handle.alpha = np.float32(0.5)
    assert handle.alpha == 0.5
