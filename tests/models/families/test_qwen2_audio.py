"""Encoding only the frames with sound equals encoding the whole 30 s window."""

from __future__ import annotations

import pytest
import torch

from sarsteer import AudioLanguageModel
from sarsteer.data.pairs import Pairs
from sarsteer.models.families.qwen2_audio import encode_audio
from tests.support.tiny import conversation, tiny_qwen2_audio

DURATIONS = (0.1, 0.5, 1.23, 7.0, 30.0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trimmed_encoding_equals_the_whole_window(attention: str) -> None:
    model = tiny_qwen2_audio(seed=0)
    model.module.set_attn_implementation(attention)
    turns = [conversation(i, seconds) for i, seconds in enumerate(DURATIONS)]
    prompts = model.prepare(turns)
    inputs = model.process([p.messages for p in prompts])
    with torch.no_grad():
        whole = model.module(**{k: v for k, v in inputs.items() if k != "num_audio_tokens"}).logits[:, -1]
        ours = model.collate(prompts)
        trimmed = model.module(inputs_embeds=ours["inputs_embeds"], attention_mask=ours["attention_mask"]).logits[:, -1]
    # float32 sums over 1500 masked positions against sums without them
    torch.testing.assert_close(trimmed, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    assert torch.equal(ours["input_ids"], inputs["input_ids"])


def test_generation_equals_transformers(embedded: AudioLanguageModel, test_pairs: Pairs) -> None:
    turns = [
        [{"role": "user", "content": [{"type": "audio", "path": item.audio}, {"type": "text", "text": item.text}]}]
        for item in test_pairs.harmful[:6]
    ]
    prompts = embedded.prepare(turns)
    inputs = embedded.process([p.messages for p in prompts])
    inputs.pop("num_audio_tokens", None)
    out = embedded.module.generate(**inputs, max_new_tokens=32, do_sample=False)
    texts = embedded.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert embedded.generate(prompts, 32) == [text.strip() for text in texts]


def test_a_clips_encoding_does_not_depend_on_its_batch(embedded: AudioLanguageModel) -> None:
    model = embedded
    short, long = conversation(1, 0.4), conversation(2, 9.0)
    model.clip_cache.clear()
    alone = model.prepare([short])[0].clips[0]
    model.clip_cache.clear()
    beside = model.prepare([short, long])[0].clips[0]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-4)
    assert alone.shape[1] == model.hidden_size


def test_encoder_states_is_differentiable(embedded: AudioLanguageModel) -> None:
    from sarsteer.models.families.qwen2_audio import encoder_states

    tower = embedded.module.model.audio_tower
    features = torch.randn(1, 80, 200, requires_grad=True)
    states, tokens = encoder_states(tower, features, torch.tensor([180]))
    assert states.shape[1] >= int(tokens[0]) == 45
    states[0, :45].sum().backward()
    assert features.grad is not None
    assert float(features.grad[..., :180].abs().sum()) > 0
    with pytest.raises(KeyError):
        encode_audio(embedded.module, {})
