"""Every audio transform, at every point of its axis: what it does to the sound, and that it is the same each time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sarsteer.attacks import ATTACKS
from sarsteer.attacks.audio.mixing import power
from sarsteer.attacks.audio.noise import Noise
from sarsteer.attacks.audio.pitch import Pitch
from sarsteer.attacks.audio.reverse import Reverse
from sarsteer.attacks.audio.silence import Silence
from sarsteer.attacks.audio.speed import Speed
from sarsteer.attacks.audio.tempo import Tempo
from sarsteer.attacks.audio.tones import Tones
from sarsteer.attacks.transform import Transform
from sarsteer.audio import SILENCE, Clip, load_clip
from sarsteer.data.pairs import Pairs
from sarsteer.errors import AttackError

TRANSFORMS = {name: cls for name, cls in ATTACKS.classes().items() if issubclass(cls, Transform)}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def clip(test_pairs: Pairs) -> Clip:
    return load_clip(test_pairs[0].harmful.audio)


@pytest.fixture(scope="module")
def sine() -> Clip:
    """One second at 440 Hz."""
    return Clip((0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32), 16_000, "sine")


def frequency(clip: Clip) -> float:
    """The loudest frequency, from the middle of the clip."""
    middle = clip.samples[len(clip.samples) // 4 : -len(clip.samples) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    return float(spectrum.argmax() * clip.rate / len(middle))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_point_of_every_axis(name: str, clip: Clip) -> None:
    if name == "speech":
        pytest.importorskip("espeakng_loader")
    transform = TRANSFORMS[name]()
    transform.check()
    assert ATTACKS.parse(ATTACKS.spec_of(transform)) == transform
    outputs = []
    for value in transform.axis.points:
        one = transform.at(value)
        one.check()
        assert one.strength == value
        changed = one.apply(clip, rng())
        assert changed.rate == clip.rate
        assert changed.samples.dtype == np.float32
        assert np.isfinite(changed.samples).all()
        assert SILENCE < np.abs(changed.samples).max() <= 1 + 1e-6  # rounding of a division by the peak
        assert np.array_equal(changed.samples, one.apply(clip, rng()).samples)
        outputs.append(changed.samples)
    for one, other in itertools.pairwise(outputs):
        assert not np.array_equal(one, other), "the axis changes the sound"


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("length", [1, 200])
def test_very_short_clips(name: str, length: int) -> None:
    if name == "speech":
        pytest.importorskip("espeakng_loader")
    short = Clip((0.5 * np.cos(np.arange(length))).astype(np.float32), 16_000, "short")
    changed = TRANSFORMS[name]().apply(short, rng())
    assert len(changed.samples) >= 1
    assert np.isfinite(changed.samples).all()


def test_noise_has_the_requested_ratio(clip: Clip) -> None:
    for snr, color in itertools.product((20.0, 5.0), ("white", "pink", "brown")):
        changed = Noise(snr=snr, color=color).apply(clip, rng())  # type: ignore[arg-type]
        scale = max(1.0, float(np.abs(changed.samples).max()))
        noise = changed.samples - clip.samples / scale
        assert 10 * np.log10(power(clip.samples) / power(noise)) == pytest.approx(
            snr, abs=0.6
        )  # other frames count as sound


def test_tempo_keeps_the_pitch_and_speed_does_not(sine: Clip) -> None:
    slow, fast = Tempo(0.5).apply(sine, rng()), Speed(2.0).apply(sine, rng())
    assert (len(slow.samples), len(fast.samples)) == (32_000, 8_000)
    high = Pitch(12.0).apply(sine, rng())
    assert len(high.samples) == 16_000
    # within one bin of a spectrum over half a clip
    assert frequency(slow) == pytest.approx(440, abs=2)
    assert frequency(fast) == pytest.approx(880, abs=4)
    assert frequency(high) == pytest.approx(880, abs=2)


def test_what_is_inserted(clip: Clip) -> None:
    n = len(clip.samples)
    quiet = Silence(seconds=1.0, parts=4).apply(clip, rng()).samples
    assert len(quiet) == n + 16_000
    assert not quiet[:4000].any()
    assert not quiet[-4000:].any()
    assert np.array_equal(quiet[np.abs(quiet) > 0], clip.samples[np.abs(clip.samples) > 0])
    assert len(Tones(seconds=1.0, parts=1).apply(clip, rng()).samples) == n + 16_000
    once = Reverse(20.0).apply(clip, rng())
    assert not np.array_equal(once.samples, clip.samples)
    assert np.array_equal(Reverse(20.0).apply(once, rng()).samples, clip.samples)


@pytest.mark.parametrize("name", ["lowpass", "highpass", "telephone"])
def test_bands(name: str) -> None:
    white = Clip((0.1 * rng().standard_normal(32_000)).astype(np.float32), 16_000, "white")
    changed = TRANSFORMS[name]().apply(white, rng())
    spectrum = np.square(np.abs(np.fft.rfft(changed.samples)))
    frequencies = np.fft.rfftfreq(len(changed.samples), 1 / 16_000)
    outside = {"lowpass": frequencies > 2500, "highpass": frequencies < 400, "telephone": frequencies > 4200}[name]
    # 4th order, forwards and backwards: more than 20 dB at these distances; µ-law adds its own noise below 4 kHz
    assert spectrum[outside].mean() < 0.01 * spectrum.max()
    assert spectrum[outside].sum() < 0.02 * spectrum.sum()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("noise:snr=nan", "must be a finite number"),
        ("noise:snr=200", "snr must be from -30 to 80, not 200"),
        ("noise:snr=5,snr=6", "set twice"),
        ("noise:loud=5", "unknown option 'loud'"),
        ("nois", "Did you mean 'noise'"),
        ("tempo:0", "factor must be from 0.25 to 4, not 0"),
        ("reverb:wet=2", "wet must be from 0 to 1"),
        ("best-of-n:0", "n must be from 1 to 10000"),
        ("best-of-n:3,sigma=0", "sigma must be above 0"),
        ("multi-turn:9", "turns must be from 1 to 5"),
        ("long-clip:0", "seconds must be from 1"),
        ("silence:1,parts=0", "parts must be at least 1"),
    ],
)
def test_bad_options(spec: str, says: str) -> None:
    from sarsteer.evaluation.attack_choice import parse_attacks

    with pytest.raises(AttackError, match=says):
        parse_attacks([spec])


def test_curves_and_duplicates() -> None:
    from sarsteer.evaluation.attack_choice import parse_attacks

    curve = parse_attacks(["noise:color=pink", "prefix"], curves=True)
    assert [one.attack.strength for one in curve] == [30, 20, 15, 10, 5, 0, None]
    assert len({one.key for one in curve}) == 7
    with pytest.raises(AttackError, match="occurs twice"):
        parse_attacks(["noise", "noise"])
