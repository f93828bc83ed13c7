"""Adapters, quantized weights, omni checkpoints, long clips and API names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers as T

from sarsteer import AudioLanguageModel, Steering, calibrate, load_model
from sarsteer.data.pairs import Pairs
from sarsteer.errors import ArtifactError, ModelError
from sarsteer.models import loading
from sarsteer.models.families.phi4_multimodal import load_with_speech_adapter
from sarsteer.models.families.qwen_omni import load_thinker
from sarsteer.models.layers import unwrap
from sarsteer.steering.handle import attach
from sarsteer.steering.strength import ResolvedStrength
from tests.support import families
from tests.support.families import make
from tests.support.tiny import conversation, tiny_qwen2_audio

LORA = dict(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


def random_vectors(model: AudioLanguageModel) -> torch.Tensor:
    return torch.randn(len(model.decoder_layers), model.hidden_size, generator=torch.Generator().manual_seed(2))


# ---- adapters ----------------------------------------------------------------------------------------------------


def test_a_peft_model_is_steered_with_its_adapter(calibration_pairs: Pairs) -> None:
    plain = tiny_qwen2_audio(seed=4)
    before = plain.last_token_activations([conversation(0)])
    wrapped = peft.get_peft_model(tiny_qwen2_audio(seed=4).module, peft.LoraConfig(**LORA))
    model = AudioLanguageModel(wrapped, plain.processor, name="with-adapter")
    assert model.family.name == "Qwen2-Audio"
    assert len(model.decoder_layers) == len(plain.decoder_layers)
    adapted = model.last_token_activations([conversation(0)])
    assert not torch.allclose(adapted, before, atol=1e-3), "captured activations must include the adapter"
    steering = calibrate(model, calibration_pairs[:3])
    answer = model.generate([conversation(1)], 8)
    with steering.on(model, alpha=2.0, k=1):
        # with the wrapper's generate and with ours
        inputs = model.collate(model.prepare([conversation(1)]))
        tokens = wrapped.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert model.generate([conversation(1)], 8) == [model.tokenizer.decode(tokens[0]).strip()]
        assert model.generate([conversation(1)], 8) != answer
    assert model.generate([conversation(1)], 8) == answer


def test_granites_lora_is_on_for_spoken_prompts_only() -> None:
    model = make("granite_speech")
    model.module.add_adapter(peft.LoraConfig(**LORA))
    spoken = [{"role": "user", "content": [{"type": "audio", "audio": noise(0, 0.8), "sampling_rate": 16_000}]}]
    written = [{"role": "user", "content": "Just text."}]
    for request, enabled in ((spoken, True), (written, False), (spoken, True)):
        seen: list[torch.Tensor] = []
        hook = model.decoder_layers[-1].register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out[:, -1]))
        model.generate([request], 1)  # transformers' generate switches the adapter
        hook.remove()
        captured = model.last_token_activations([request])[:, -1]
        assert torch.allclose(captured, seen[0], atol=1e-5), enabled
        (model.module.disable_adapters if enabled else model.module.enable_adapters)()
        other = model.last_token_activations([request])[:, -1]
        assert torch.equal(other, captured), "a forward must switch the adapter too"
    assert "speech LoRA" in str(model.prefix_refusal)
    own = model.build_prompt(model.read(spoken, 0)[0], 0).inputs
    out = model.module.generate(**own, max_new_tokens=6, do_sample=False)  # switches the adapter by the features
    text = model.decode(out[:, own["input_ids"].shape[1] :])[0].strip()
    model.module.disable_adapters()
    assert model.generate([spoken], 6) == [text]
    # spoken and written rows may share a call, but not a batch
    assert model.generate([spoken, written], 6) == [model.generate([c], 6)[0] for c in (spoken, written)]


def test_phi_4_is_loaded_with_its_speech_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("phi4_multimodal")
    monkeypatch.setattr(T.AutoProcessor, "from_pretrained", lambda *_, **__: model.processor)  # needs torchvision
    model.module.save_pretrained(tmp_path / "model")
    config = T.AutoConfig.from_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"speech LoRA .* cannot be loaded; use a revision that contains it"):
        load_with_speech_adapter(str(tmp_path / "model"), config)
    adapter = T.Phi4MultimodalForCausalLM.from_pretrained(tmp_path / "model")
    adapter.add_adapter(peft.LoraConfig(r=4, target_modules=["qkv_proj"], init_lora_weights=False), "speech")
    adapter.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter").rename(tmp_path / "model" / "speech-lora")
    module, _, _ = load_with_speech_adapter(str(tmp_path / "model"), config)
    assert module.active_adapters() == ["speech"]
    adapted = AudioLanguageModel(module, model.processor).last_token_activations([conversation(0)])
    assert not torch.allclose(adapted, model.last_token_activations([conversation(0)]), atol=1e-4)
    adapter.set_adapter("speech")
    direct = AudioLanguageModel(adapter, model.processor).last_token_activations([conversation(0)])
    assert torch.allclose(adapted, direct, atol=1e-6)


# ---- omni --------------------------------------------------------------------------------------------------------


def test_only_the_thinker_of_an_omni_checkpoint_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thinker = make("qwen2_5_omni")
    talker = dict(families.LANGUAGE, embedding_size=32, rope_parameters=families.M_ROPE, head_dim=8)
    config = T.Qwen2_5OmniConfig(
        thinker_config=thinker.module.config.to_dict(), talker_config=talker, enable_audio_output=False
    )
    whole = T.Qwen2_5OmniForConditionalGeneration(config).eval()
    whole.thinker.load_state_dict(thinker.module.state_dict())
    whole.save_pretrained(tmp_path)
    monkeypatch.setattr(T.AutoProcessor, "from_pretrained", lambda *_, **__: thinker.processor)  # needs torchvision
    module, processor, report = load_thinker(str(tmp_path), T.AutoConfig.from_pretrained(tmp_path))
    assert not report["missing_keys"]
    loaded = AudioLanguageModel(module, processor)
    assert type(module).__name__ == "Qwen2_5OmniThinkerForConditionalGeneration"
    assert torch.equal(
        loaded.last_token_activations([conversation(0)]), thinker.last_token_activations([conversation(0)])
    )
    # the thinker of a whole model that a user loaded is steered too
    bare = AudioLanguageModel(whole, thinker.processor)
    assert bare.decoder_layers == list(getattr(whole.thinker.model, "language_model", whole.thinker.model).layers)
    with attach(whole, bare.decoder_layers, ResolvedStrength(random_vectors(bare), 0.8)):
        steered = bare.generate([conversation(0)], 6)
    with attach(module, loaded.decoder_layers, ResolvedStrength(random_vectors(loaded), 0.8)):
        assert loaded.generate([conversation(0)], 6) == steered
    assert bare.fingerprint == loaded.fingerprint


# ---- quantized ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}], ids=["int8", "nf4"]
)
def test_quantized_weights(tmp_path: Path, calibration_pairs: Pairs, options: dict[str, Any]) -> None:
    whole = tiny_qwen2_audio(seed=0, width=64)
    whole.module.save_pretrained(tmp_path)
    whole.processor.save_pretrained(tmp_path)
    quantised = T.BitsAndBytesConfig(
        **options, llm_int8_skip_modules=["lm_head", "model.audio_tower", "model.multi_modal_projector"]
    )
    model = load_model(tmp_path, quantization_config=quantised, device_map="cpu")
    assert "bitsandbytes" in str(type(model.decoder_layers[0].mlp.gate_proj))
    steering = calibrate(model, calibration_pairs[:3])
    assert bool(torch.isfinite(steering.refusal).all())
    plain = model.last_token_activations([conversation(0)])
    with steering.on(model, alpha=2.0, k=1):
        steered = model.last_token_activations([conversation(0)])
    assert torch.allclose(steered[0, 0] - plain[0, 0], 2.0 * steering.vectors(1)[0], atol=1e-2)
    assert torch.equal(model.last_token_activations([conversation(0)]), plain)
    # vectors of the full model are refused for its quantized copy, unless the user allows another model
    theirs = calibrate(load_model(tmp_path), calibration_pairs[:3])
    with pytest.raises(ArtifactError, match="quantized copy"), theirs.on(model, alpha=0.1):
        pass
    with theirs.on(model, alpha=0.1, allow_other_model=True):
        assert len(model.generate([conversation(0)], 4)) == 1


# ---- clips -------------------------------------------------------------------------------------------------------


def noise(seed: int, seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))).astype(np.float32)


def test_a_long_clip_is_split_on_request() -> None:
    model = tiny_qwen2_audio(seed=0)
    model.split_long_audio = True
    sound = noise(0, 64.0)
    sound[29 * 16_000 : 29 * 16_000 + 8_000] = 0.0  # a pause, where the first cut should be
    whole = [{"role": "user", "content": [{"type": "audio", "audio": sound, "sampling_rate": 16_000}]}]
    (prompt,) = model.prepare([whole])
    assert len(prompt.clips) == 3
    pieces = [part["audio"] for part in prompt.messages[0]["content"]]
    assert np.array_equal(np.concatenate(pieces), sound)
    assert all(len(piece) <= 30 * 16_000 for piece in pieces)
    assert 29 * 16_000 < len(pieces[0]) < 29 * 16_000 + 8_000
    assert isinstance(model.generate([whole], 4)[0], str)


def test_load_model_takes_the_option(tmp_path: Path) -> None:
    tiny = tiny_qwen2_audio(seed=0)
    tiny.module.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    assert load_model(tmp_path, split_long_audio=True).input_limits.split
    assert not load_model(tmp_path).input_limits.split


# ---- models behind an API ----------------------------------------------------------------------------------------


def test_names_of_api_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with pytest.raises(ModelError, match=r"not calibrated or steered; in Python, use sarsteer\.ApiModel"):
        load_model("openai/gpt-audio")
    assert loading.open_model("openai/gpt-audio").name == "openai/gpt-audio"
    with pytest.raises(ModelError, match="has no dtype"):
        loading.open_model("openai/gpt-audio", dtype="float32", device=None)
    assert loading.open_model("sarsteer-tiny", device="cpu").steerable


def test_a_model_behind_an_api_is_neither_calibrated_nor_steered(
    monkeypatch: pytest.MonkeyPatch, steering: Steering, calibration_pairs: Pairs
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    model = loading.open_model("openai/gpt-audio")
    with pytest.raises(ModelError, match="defended by a prompt, not steered"):
        steering.attach(model)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="defended by a prompt, not steered"):
        calibrate(model, calibration_pairs[:2])  # type: ignore[arg-type]


def test_unwrap_removes_compile_and_peft() -> None:
    model = tiny_qwen2_audio(seed=0).module
    wrapped = torch.compile(peft.get_peft_model(model, peft.LoraConfig(**LORA)), backend="eager")
    assert unwrap(wrapped) is model
