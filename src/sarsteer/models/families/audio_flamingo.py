"""Audio Flamingo 3 and Music Flamingo: long clips, exactly one per conversation."""

from __future__ import annotations

from sarsteer.models.family import Family

AUDIO_FLAMINGO_3 = Family(
    "Audio Flamingo 3",
    architectures=("AudioFlamingo3ForConditionalGeneration",),
    checkpoints=("nvidia/audio-flamingo-3-hf",),
    cuts_at_window=False,
    padding_leaks=False,
    encode_once=True,
    prefix_reuse=True,
    min_clips=1,
    max_clips=1,
    engines=("transformers", "vllm"),
)

MUSIC_FLAMINGO = Family(
    "Music Flamingo",
    architectures=("MusicFlamingoForConditionalGeneration",),
    checkpoints=("nvidia/music-flamingo-2601-hf",),
    cuts_at_window=False,
    padding_leaks=False,
    encode_once=True,
    prefix_reuse=True,
    min_clips=1,
    max_clips=1,
)
