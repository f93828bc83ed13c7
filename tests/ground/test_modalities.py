"""Requests in every form: spoken, written, shown, felt; vectors drawn from one and applied to another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from sarsteer import AudioLanguageModel, Steering, calibrate, load_pairs
from sarsteer.data.manifest import load_items
from sarsteer.data.pairs import Pairs
from sarsteer.errors import ManifestError, MessageError
from sarsteer.modalities import Modality, modality_of, register_modality
from sarsteer.models.control_tokens import can_sanitize
from tests.support import haptic
from tests.support.families import make


@pytest.fixture(scope="module")
def feeling() -> AudioLanguageModel:
    return haptic.make()


def wave(seed: int, length: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def felt(seed: int, text: str = "What is felt?") -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "haptic", "haptic": wave(seed)}, {"type": "text", "text": text}]}]


def manifest(folder: Path, kinds: list[str]) -> Path:
    """Pairs of the given kinds in turn, with files of noise."""
    lines = []
    for index, kind in enumerate(kinds):
        for label in ("harmful", "safe"):
            row = {"id": f"{label}{index}", "question": f"{label} question {index}", "label": label, "pair": str(index)}
            seed = 2 * index + (label == "safe")
            if kind == "audio":
                row["audio"] = f"{label}{index}.wav"
                soundfile.write(folder / row["audio"], 0.1 * wave(seed, 8_000), 16_000)
            elif kind == "image":
                row["image"] = f"{label}{index}.png"
                pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / row["image"])
            elif kind == "haptic":
                row["haptic"] = f"{label}{index}.npy"
                np.save(folder / row["haptic"], wave(seed))
            else:
                row["modality"] = "text"
            lines.append(json.dumps(row))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines))
    return path


# ---- a modality of one's own -------------------------------------------------------------------------------------


def test_a_new_modality_is_felt_calibrated_and_steered(feeling: AudioLanguageModel, tmp_path: Path) -> None:
    assert feeling.modalities == {"haptic"}
    one, other = feeling.last_token_activations([felt(0), felt(1)])
    assert float((one - other).abs().max()) > 1e-3
    pairs = load_pairs(manifest(tmp_path, ["haptic"] * 3))
    steering = calibrate(feeling, pairs, batch_size=2)
    assert steering.metadata["modalities"]["harmful"] == {"haptic": 3}
    plain = feeling.generate([felt(5)], 8)
    with steering.on(feeling, alpha=3.0, k=1):
        assert feeling.generate([felt(5)], 8) != plain
        together = feeling.generate([felt(5), felt(6, "And this?")], 8)
        assert together == [feeling.generate([c], 8)[0] for c in (felt(5), felt(6, "And this?"))]
    assert feeling.generate([felt(5)], 8) == plain


def test_two_vibrations_and_none(feeling: AudioLanguageModel) -> None:
    two = [{"role": "user", "content": [{"type": "haptic", "haptic": wave(i, 100 * i)} for i in (1, 2)]}]
    (prompt,) = feeling.prepare([two])
    place = feeling.module.config.haptic_token_id
    assert int((prompt.input_ids == place).sum()) == 2 + 4
    if not can_sanitize(feeling.processor):  # transformers before 5.23 cannot keep it plain text: refused
        with pytest.raises(MessageError, match="contains the control token"):
            feeling.prepare([[{"role": "user", "content": f"no {haptic.PLACE} at all"}]])
        return
    (written,) = feeling.prepare([[{"role": "user", "content": f"no {haptic.PLACE} at all"}]])
    assert int((written.input_ids == place).sum()) == 0


@pytest.mark.parametrize(
    ("part", "match"),
    [
        ({"type": "haptic", "haptic": np.zeros(3)}, "at least 50 finite samples"),
        ({"type": "haptic", "path": "nowhere.npy"}, r"cannot be read .* give a \.npy file"),
        ({"type": "audio", "path": "clip.wav"}, "does not take audio; it takes text, haptic"),
    ],
)
def test_bad_vibrations(feeling: AudioLanguageModel, part: dict[str, object], match: str) -> None:
    with pytest.raises(MessageError, match=match):
        feeling.generate([[{"role": "user", "content": [part]}]])


@pytest.mark.parametrize(
    ("modality", "match"),
    [
        (Modality("audio", "audio", lambda *_: None), "built in"),
        (Modality("text", "text", lambda *_: None), "built in"),
        (Modality("two words", "x", lambda *_: None), "identifier"),
        (Modality("smell", "smells"), "'read' function"),
        (Modality("smell", read=lambda *_: None), "processor_key"),
    ],
)
def test_what_cannot_be_registered(modality: Modality, match: str) -> None:
    with pytest.raises(MessageError, match=match):
        register_modality(modality)
    assert modality_of("smell") is None


# ---- from one modality to another --------------------------------------------------------------------------------


def test_vectors_of_written_pairs_steer_spoken_requests(embedded: AudioLanguageModel, test_pairs: Pairs) -> None:
    written = Pairs([_written(pair) for pair in load_pairs("sarsteer-tiny")[:12]])
    steering = calibrate(embedded, written)
    assert steering.metadata["modalities"] == {"harmful": {"text": 12}, "safe": {"text": 12}}
    spoken = [pair.harmful.turn(steering.metadata["instruction"]) for pair in test_pairs[:4]]
    plain = embedded.last_token_activations(spoken)
    with steering.on(embedded, alpha=0.1, k=2):
        steered = embedded.last_token_activations(spoken)
    # the first layer's input is not steered yet: there the difference is the vector itself
    expected = 0.1 * steering.vectors(2)[0].expand(4, -1)
    assert torch.allclose(steered[:, 0] - plain[:, 0], expected, atol=1e-4)


def _written(pair: object) -> object:
    from dataclasses import replace

    return replace(
        pair,
        harmful=replace(pair.harmful, modality="text", media=None),
        safe=replace(pair.safe, modality="text", media=None),
    )


def test_mixed_pairs_are_the_mean_of_their_parts(embedded: AudioLanguageModel, calibration_pairs: Pairs) -> None:
    spoken, written = calibration_pairs[:4], Pairs([_written(pair) for pair in calibration_pairs[4:8]])
    mixed = calibrate(embedded, Pairs([*spoken, *written]), batch_size=3)
    assert mixed.metadata["modalities"]["harmful"] == {"audio": 4, "text": 4}
    apart = (calibrate(embedded, spoken).refusal + calibrate(embedded, written).refusal) / 2
    # other batches, so float32 sums in another order
    assert torch.allclose(mixed.refusal, apart, atol=1e-4 * float(apart.abs().max()))


def test_images_and_sound_in_one_calibration(tmp_path: Path) -> None:
    model = make("qwen2_5_omni")
    pairs = load_pairs(manifest(tmp_path, ["audio", "image", "text"]))
    steering = calibrate(model, pairs, batch_size=3)
    assert steering.metadata["modalities"]["safe"] == {"audio": 1, "image": 1, "text": 1}
    conversations = [pair.harmful.turn("Go on.") for pair in pairs]
    with steering.on(model, alpha=1.0, k=1):
        answers = model.generate(conversations, 5)
        assert answers == [model.generate([c], 5)[0] for c in conversations]


def test_a_modality_that_the_model_lacks_is_named_by_its_item(tiny: AudioLanguageModel, tmp_path: Path) -> None:
    pairs = load_pairs(manifest(tmp_path, ["audio", "image"]))
    with pytest.raises(MessageError, match=r"item 'harmful1': message 0, part 0: this model does not take image"):
        calibrate(tiny, pairs)


# ---- manifests and images ----------------------------------------------------------------------------------------


def test_a_manifest_names_each_rows_modality(tmp_path: Path) -> None:
    haptic.register()
    items = load_items(manifest(tmp_path, ["audio", "image", "haptic", "text"]))
    assert [item.modality for item in items[::2]] == ["audio", "image", "haptic", "text"]
    assert items[-1].media is None
    assert items[-1].turn("Now.")[0]["content"] == [{"type": "text", "text": "safe question 3\nNow."}]
    with pytest.raises(ManifestError, match="is text, not audio"):
        _ = items[-1].audio


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"audio": "a.wav", "image": "a.png"}, "has audio and image; give one file per row"),
        ({"modality": "smell"}, "unknown modality 'smell'"),
        ({"modality": "text", "audio": "a.wav"}, "modality is 'text', but the row has audio"),
        ({}, "needs 'audio'"),
        ({"image": "none.png"}, "image 'none.png' is missing"),
        ({"image": "../a.png"}, "is outside"),
    ],
)
def test_rows_that_cannot_be(tmp_path: Path, more: dict[str, str], match: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"id": "1", "question": "q", "label": "safe", **more}))
    with pytest.raises(ManifestError, match=match):
        load_items(path)


def test_images_in_every_form_are_the_same(tmp_path: Path) -> None:
    import base64

    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    encoded = base64.b64encode(path.read_bytes()).decode()
    forms = [
        {"type": "image", "image": pixels},
        {"type": "image", "image": Image.fromarray(pixels)},
        {"type": "image", "path": path},
        {"type": "image", "image": str(path)},
        {"type": "image", "bytes": path.read_bytes()},
        {"type": "image", "base64": encoded},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
    ]
    model = make("qwen2_5_vl")
    seen = model.prepare([[{"role": "user", "content": [form]}] for form in forms])
    assert all(torch.equal(prompt.inputs["pixel_values"], seen[0].inputs["pixel_values"]) for prompt in seen)


@pytest.mark.parametrize(
    ("part", "match"),
    [
        ({"type": "image"}, "needs one of image, path"),
        ({"type": "image", "path": "none.png"}, "no such file"),
        ({"type": "image", "bytes": b"no image"}, "not a readable image"),
        ({"type": "image", "base64": "@@"}, "base64 is invalid"),
        ({"type": "image", "url": "https://example.org/a.png"}, "download the file yourself"),
        ({"type": "image", "url": "file:///etc/hostname"}, "download the file yourself"),
        ({"type": "image", "image": np.zeros((2, 2, 2, 2))}, "array is not an image"),
    ],
)
def test_bad_images(part: dict[str, object], match: str) -> None:
    with pytest.raises(MessageError, match=match):
        make("qwen2_5_vl").prepare([[{"role": "user", "content": [part]}]])


def test_an_artifact_says_its_modality_when_shown(tmp_path: Path, feeling: AudioLanguageModel) -> None:
    import subprocess
    import sys

    pairs = load_pairs(manifest(tmp_path, ["haptic", "text", "haptic"]))
    path = calibrate(feeling, pairs).save(tmp_path / "steering.safetensors")
    assert Steering.load(path).metadata["modalities"]["harmful"] == {"haptic": 2, "text": 1}
    told = subprocess.run(
        [sys.executable, "-m", "sarsteer.cli.main", "show", str(path)], capture_output=True, text=True, check=True
    )
    assert "2 haptic, 1 text" in told.stdout
