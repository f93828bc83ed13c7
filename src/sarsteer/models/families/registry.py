"""The registry of model families. A new family is one entry, and a function where it can do more.

Everything that differs between families and cannot be read off the model stands here; whatever the generic
path gets right needs no entry at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sarsteer.models.families import qwen2_audio
from sarsteer.models.layers import unwrap

EncodeAudio = Callable[[Any, dict[str, torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True)
class Family:
    """What is known of a family.

    Attributes:
        name: the family's usual name.
        architectures: transformers class names, as in ``config.architectures``.
        checkpoints: published checkpoints that the entry was written for.
        window_seconds: the longest clip that is heard whole; longer ones are refused, never cut silently.
        cuts_at_window: whether its processor silently cuts a clip at its feature extractor's window, which is then
            the limit.
        min_clips, max_clips: bounds on the clips of one conversation.
        encode_audio: from the processor's tensors to one ``[tokens, D]`` embedding a clip, ready for the language
            model; clips are then encoded once and remembered. Without it the model's own forward encodes.
        audio_options: from the processor and the longest clip's samples to options that spare it what
            ``encode_audio`` would not look at.
        audio_token_id: the id whose embeddings ``encode_audio`` replaces.
        padding_leaks: whether the family's encoder lets the padding of a shorter clip reach its sound. Rows are then
            batched only with rows whose media have the same shapes, so that company never changes an answer.
        prefix_reuse: whether a key-value cache of the decoder can be cropped and continued, so that the two arms of
            calibration share their common prefix.
        layers: explicit path of the decoder layers, where the generic search fails.
        wrapper: ``"module:Class"`` of the subclass of ``AudioLanguageModel`` that a family needs whose prompts,
            forward or answers are made in a way of its own.
        loader: ``"module:function"`` that loads a checkpoint which transformers alone cannot; see
            ``loading.load_with_transformers`` for what it is given and returns.
        tested: on what this repository's tests ran.
        engines: where its checkpoints run: ``"transformers"``, ``"vllm"``, ``"api"``.
        limits: what a user should know before choosing it; for the table in the documentation.

    """

    name: str
    architectures: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    window_seconds: float | None = None
    cuts_at_window: bool = True
    min_clips: int = 0
    max_clips: int | None = None
    encode_audio: EncodeAudio | None = None
    audio_options: Callable[[Any, int], dict[str, Any]] | None = None
    audio_token_id: Callable[[Any], int] | None = None
    padding_leaks: bool = True
    prefix_reuse: bool = False
    layers: str | None = None
    wrapper: str | None = None
    loader: str | None = None
    tested: str = "real classes and processor, tiny random weights"
    engines: tuple[str, ...] = ("transformers",)
    limits: str = ""


GENERIC = Family("generic")

QWEN2_AUDIO = Family(
    "Qwen2-Audio",
    architectures=("Qwen2AudioForConditionalGeneration",),
    checkpoints=("Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2-Audio-7B", "sarsteer-tiny"),
    window_seconds=30.0,
    padding_leaks=False,
    encode_audio=qwen2_audio.encode_audio,
    audio_options=qwen2_audio.audio_options,
    audio_token_id=qwen2_audio.audio_token_id,
    prefix_reuse=True,
    engines=("transformers", "vllm"),
    tested="a trained tiny model on real speech; real classes and processor, tiny random weights",
)

QWEN2_5_OMNI = Family(
    "Qwen2.5-Omni",
    architectures=("Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniThinkerForConditionalGeneration"),
    checkpoints=("Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B"),
    window_seconds=300.0,
    padding_leaks=False,
    loader="sarsteer.models.families.omni:load_thinker",
    engines=("transformers", "vllm"),
    limits="the thinker only: it answers in text, no speech is made",
)

QWEN3_OMNI = Family(
    "Qwen3-Omni",
    architectures=("Qwen3OmniMoeForConditionalGeneration", "Qwen3OmniMoeThinkerForConditionalGeneration"),
    checkpoints=("Qwen/Qwen3-Omni-30B-A3B-Instruct", "Qwen/Qwen3-Omni-30B-A3B-Thinking"),
    cuts_at_window=False,
    loader="sarsteer.models.families.omni:load_thinker",
    engines=("transformers", "vllm"),
    limits="the thinker only: it answers in text, no speech is made",
)

VOXTRAL = Family(
    "Voxtral",
    architectures=("VoxtralForConditionalGeneration",),
    checkpoints=("mistralai/Voxtral-Mini-3B-2507", "mistralai/Voxtral-Small-24B-2507"),
    cuts_at_window=False,
    padding_leaks=False,
    wrapper="sarsteer.models.families.voxtral:Voxtral",
    engines=("transformers", "vllm"),
    limits="needs mistral-common",
)

AUDIO_FLAMINGO_3 = Family(
    "Audio Flamingo 3",
    architectures=("AudioFlamingo3ForConditionalGeneration",),
    checkpoints=("nvidia/audio-flamingo-3-hf",),
    cuts_at_window=False,
    padding_leaks=False,
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
    min_clips=1,
    max_clips=1,
)

GRANITE_SPEECH = Family(
    "Granite Speech",
    architectures=("GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration"),
    checkpoints=("ibm-granite/granite-speech-3.3-8b", "ibm-granite/granite-speech-3.3-2b"),
    cuts_at_window=False,
    wrapper="sarsteer.models.families.granite_speech:GraniteSpeech",
    engines=("transformers", "vllm"),
    limits="its feature extractor needs torchaudio; its speech LoRA is on for spoken rows only",
    tested="real classes, tiny random weights; features by a stand-in of its extractor",
)

GEMMA_3N = Family(
    "Gemma 3n",
    architectures=("Gemma3nForConditionalGeneration",),
    checkpoints=("google/gemma-3n-E4B-it", "google/gemma-3n-E2B-it"),
    window_seconds=30.0,
    engines=("transformers", "vllm"),
    limits="the active one of its four residual streams is steered; its vision tower needs timm and torchvision",
    tested="real classes and processor, tiny random weights, without its vision tower",
)

GEMMA_4 = Family(
    "Gemma 4",
    architectures=("Gemma4ForConditionalGeneration",),
    checkpoints=("google/gemma-4-E4B-it", "google/gemma-4-E2B-it"),
    window_seconds=30.0,
    engines=("transformers", "vllm"),
)

GEMMA_4_UNIFIED = Family(
    "Gemma 4 Unified",
    architectures=("Gemma4UnifiedForConditionalGeneration",),
)

PHI_4_MULTIMODAL = Family(
    "Phi-4-multimodal",
    architectures=("Phi4MultimodalForCausalLM",),
    checkpoints=("microsoft/Phi-4-multimodal-instruct",),
    cuts_at_window=False,
    wrapper="sarsteer.models.families.phi4_multimodal:Phi4Multimodal",
    loader="sarsteer.models.families.phi4_multimodal:load_with_speech_adapter",
    engines=("transformers", "vllm"),
    limits="its speech LoRA must be in the checkpoint (revision refs/pr/70), and needs peft; images need torchvision",
)

NEMOTRON_H_OMNI = Family(
    "Nemotron-H Omni",
    architectures=("NemotronH_Omni_Reasoning_V3",),
    checkpoints=("nvidia/NVIDIA-Nemotron-3-Nano-Omni-30B-A3B",),
    cuts_at_window=False,
    engines=("transformers",),
    limits="each Mamba, attention, MLP or expert block counts as a layer",
)

GLM_ASR = Family(
    "GLM-ASR",
    architectures=("GlmAsrForConditionalGeneration",),
    checkpoints=("zai-org/GLM-ASR-Nano-2512",),
    cuts_at_window=False,
    padding_leaks=False,
    min_clips=1,
    max_clips=1,
    limits="made to transcribe, rather than to answer",
)

QWEN2_5_VL = Family(
    "Qwen2.5-VL",
    architectures=("Qwen2_5_VLForConditionalGeneration",),
    checkpoints=("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"),
    padding_leaks=False,
    engines=("transformers", "vllm"),
    limits="hears nothing: image and text requests; video needs torchvision",
)

TEXT = Family(
    "text decoders",
    architectures=("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"),
    checkpoints=("Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    padding_leaks=False,
    engines=("transformers", "vllm"),
    limits="hear nothing: written requests only",
)

KIMI_AUDIO = Family(
    "Kimi-Audio",
    architectures=("MoonshotKimiaForCausalLM",),
    checkpoints=("moonshotai/Kimi-Audio-7B-Instruct",),
    cuts_at_window=False,
    layers="model.layers",  # the text path; model.mimo_layers, which speak, are left alone
    wrapper="sarsteer.models.families.kimi_audio:KimiAudio",
    loader="sarsteer.models.families.kimi_audio_loader:load",
    engines=("transformers", "vllm"),
    limits=(
        "Remote code, and Moonshot's package kimia_infer on a CUDA device with flash-attn. One conversation at a time; "
        "prompt and answer share 7,500 tokens (12.5 a second of audio); no system messages. Text answers are steered; "
        "spoken ones from the steered state at layer 21. Code under MIT and, where derived from Qwen2.5, Apache-2.0."
    ),
    tested="a stand-in of its remote code and of its package",
)

QWEN_AUDIO = Family(
    "Qwen-Audio",
    architectures=("QWenLMHeadModel",),  # the text-only Qwen's too, which the loader refuses
    checkpoints=("Qwen/Qwen-Audio-Chat", "Qwen/Qwen-Audio"),
    window_seconds=30.0,
    layers="transformer.h",
    wrapper="sarsteer.models.families.qwen_audio:QwenAudio",
    loader="sarsteer.models.families.qwen_audio:load",
    limits="remote code; needs trust_remote_code=True, tiktoken and einops; no flash attention, no quantised cache",
    tested="a stand-in of its remote code",
)

_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a family, or replace the one that held its architectures."""
    for architecture in family.architectures:
        _FAMILIES[architecture] = family


for _family in (
    QWEN2_AUDIO,
    QWEN2_5_OMNI,
    QWEN3_OMNI,
    VOXTRAL,
    AUDIO_FLAMINGO_3,
    MUSIC_FLAMINGO,
    GRANITE_SPEECH,
    GEMMA_3N,
    GEMMA_4,
    GEMMA_4_UNIFIED,
    PHI_4_MULTIMODAL,
    NEMOTRON_H_OMNI,
    GLM_ASR,
    QWEN2_5_VL,
    TEXT,
    QWEN_AUDIO,
    KIMI_AUDIO,
):
    register(_family)


def family_of(module: nn.Module) -> Family:
    """The entry of a model's class, or the generic one."""
    return _FAMILIES.get(type(unwrap(module)).__name__, GENERIC)


def family_named(architecture: str) -> Family | None:
    """The entry of a transformers class name; None where there is none."""
    return _FAMILIES.get(architecture)


def families() -> list[Family]:
    """Every registered family once, in the order of registration."""
    return list(dict.fromkeys(_FAMILIES.values()))
