"""The checkpoint as a whole: what transformers loads is what was trained."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sarsteer
from sarsteer.errors import ModelError
from sarsteer.models.packaged import export_model, read_origin
from sarsteer.small import checkpoint, source
from sarsteer.small.cache import RECORD, is_whole, small_folder
from sarsteer.small.design import AUDIO
from sarsteer.small.dtype import best_dtype
from sarsteer.small.language_model import from_gguf
from sarsteer.small.weights import merge_lora, read_weights

CLIP = (np.sin(np.arange(17_000) / 9) * np.linspace(0, 0.5, 17_000)).astype(np.float32)


def loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    model, report = Qwen2AudioForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval(), AutoProcessor.from_pretrained(folder)


def merged_llama(parts: tuple[Path, Path]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    text = from_gguf(parts[0], "test")
    merge_lora(text.weights, read_weights(parts[1])[1])
    model = LlamaForCausalLM(LlamaConfig(**text.config, tie_word_embeddings=True)).eval()
    model.model.load_state_dict(text.weights)
    model.tie_weights()
    return model


def test_text_is_answered_as_by_the_llama_with_the_merged_update(
    tiny_small: Path, tiny_parts: tuple[Path, Path]
) -> None:
    model, processor = loaded(small_folder())
    ids = processor.tokenizer("<|im_start|>user\nthe hen<|im_end|>\n", return_tensors="pt").input_ids
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits, merged_llama(tiny_parts)(ids).logits
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.01)  # stored in float16
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


def test_speech_becomes_the_frames_that_training_computes(tiny_small: Path, tiny_parts: tuple[Path, Path]) -> None:
    from tests.small.parts import ENCODER, TEXT_CONFIG, vocabulary
    from training.small.frames import spectrogram
    from training.small.network import Hearing

    model, processor = loaded(small_folder())
    hearing = Hearing({**TEXT_CONFIG, "vocab_size": len(vocabulary()[0])}, ENCODER)
    hearing.load_state_dict(read_weights(tiny_parts[1])[0])
    clip = np.pad(CLIP, (0, -len(CLIP) % 1280))
    inputs = processor(text=AUDIO, audio=[clip], sampling_rate=16_000, return_tensors="pt")
    count = int((inputs.input_ids == model.config.audio_token_id).sum())
    assert count == len(clip) // 1280  # 12.5 a second
    outputs = []
    model.model.multi_modal_projector.register_forward_hook(lambda module, args, out: outputs.append(out))
    with torch.no_grad():
        frames, lengths = hearing([spectrogram(clip)])
        model(**inputs)
    found = outputs[0].reshape(-1, outputs[0].shape[-1])[:count]
    assert lengths == [count]
    # the last frame differs: training's spectrogram ends where the window of 60 s goes on with silence
    torch.testing.assert_close(found[:-1], frames[0, : count - 1], atol=0.02, rtol=0.02)


def test_a_clip_stands_where_its_words_would(tiny_small: Path) -> None:
    _, processor = loaded(small_folder())
    clip = {"type": "audio", "audio": CLIP}

    def shown(content: Any) -> str:
        turn = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))

    assert shown([clip, {"type": "text", "text": "Answer."}]) == shown(f"{AUDIO}\nAnswer.")
    assert shown([clip]) == shown([clip, {"type": "text", "text": ""}]) == shown(AUDIO)
    assert shown("hi").startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert shown("hi").endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def test_sarsteer_loads_and_answers(tiny_small: Path) -> None:
    import sarsteer
    from sarsteer.audio import Clip

    model = sarsteer.load_model(small_folder(), device="cpu", dtype="float32")
    answers = model.generate([sarsteer.user_turn(Clip(CLIP, 16_000, "clip"), "Repeat the words.")], 3)
    assert len(answers) == 1


def test_the_cache_is_built_once_and_again_when_it_is_damaged(tiny_small: Path) -> None:
    folder = small_folder()
    weights = folder / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    assert small_folder() == folder
    assert weights.stat().st_mtime_ns == stamp
    weights.write_bytes(weights.read_bytes()[:-5])
    assert not is_whole(folder)
    assert is_whole(small_folder())
    (folder / RECORD).unlink()
    assert is_whole(small_folder())
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_two_builders_at_once_build_one_cache(tiny_small: Path) -> None:
    with ThreadPoolExecutor(2) as pool:  # the lock holds between open files, so between processes too
        found = set(pool.map(lambda _: small_folder(), range(2)))
    assert len(found) == 1
    assert is_whole(found.pop())


def test_a_cache_that_cannot_be_written_is_named(tiny_small: Path) -> None:
    tiny_small.write_text("a file in its place")
    with pytest.raises(ModelError, match="SARSTEER_CACHE"):
        small_folder()


def test_a_failed_build_leaves_nothing(tiny_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object) -> None:
        raise ModelError("no model")

    monkeypatch.setattr(checkpoint, "write_checkpoint", failing)
    with pytest.raises(ModelError, match="no model"):
        small_folder()
    assert not [path for path in tiny_small.iterdir() if path.is_dir()]


def test_export_writes_a_whole_checkpoint_and_never_over_another(tiny_small: Path, tmp_path: Path) -> None:
    folder = export_model("sarsteer-small", tmp_path / "new" / "exported")
    loaded(folder)
    names = {path.name for path in folder.iterdir()}
    assert {"NOTICE.md", "MODEL_CARD.md", "config.json", "model.safetensors", "chat_template.jinja"} <= names
    assert RECORD not in names
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask()
    with pytest.raises(ModelError, match="not empty"):
        export_model("sarsteer-small", folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file"):
        export_model("sarsteer-small", tmp_path / "file")
    with pytest.raises(ModelError, match="Qwen/Qwen2-Audio-7B is not part of sarsteer"):
        export_model("Qwen/Qwen2-Audio-7B", tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "new", "file"}


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_load_model_takes_the_name(tiny_small: Path, tmp_path: Path) -> None:
    model = sarsteer.load_model("sarsteer-small", device="cpu")
    assert model.name == "sarsteer-small"
    assert str(model.dtype) == f"torch.{best_dtype('cpu')}"
    assert model.origin == read_origin(small_folder())
    exported = sarsteer.load_model(export_model("sarsteer-small", tmp_path / "exported"), device="cpu", dtype="float32")
    assert exported.origin == model.origin
    named = sarsteer.load_model("sarsteer-small", device="cpu", dtype="float32")
    assert named.fingerprint == exported.fingerprint


def test_a_cache_that_was_built_is_used_where_the_language_model_is_missing(
    tiny_small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = small_folder()
    monkeypatch.setattr(source, "wheel_file", lambda: None)
    assert small_folder() == built
    (built / RECORD).unlink()
    with pytest.raises(ModelError, match=re.escape(source.INSTALL)):
        small_folder()


def test_what_a_killed_build_left_is_removed(tiny_small: Path) -> None:
    folder = small_folder()
    (folder / RECORD).unlink()
    left = folder.with_name(f".{folder.name}-0a1b2c3d")
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"part")
    assert is_whole(small_folder())
    assert not left.exists()


def test_a_disk_that_is_full_is_named(tiny_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*args: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "write_checkpoint", full)
    with pytest.raises(ModelError, match=r"No space left.*SARSTEER_CACHE"):
        small_folder()
