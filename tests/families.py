"""Tiny random models of the field's families: transformers' real classes, hand-made inputs, no processor.

Each entry makes ``(model, inputs)`` for a left-padded batch of two rows with one stretch of audio each. They serve the
assertions that hold for every family: layers found and counted, steering proven, capture right, removal bit-equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as T

AUDIO = 100  # the placeholder's id, in a vocabulary of 128
LANGUAGE = dict(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
M_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}  # the sections sum to half a head
Made = tuple[torch.nn.Module, dict[str, torch.Tensor]]
FAMILIES: dict[str, Callable[[], Made]] = {}


def family(make: Callable[[], Made]) -> Callable[[], Made]:
    """Register a maker under its name."""
    FAMILIES[make.__name__] = make
    return make


def tokens(audio: int) -> dict[str, torch.Tensor]:
    """Two rows, the first three tokens longer: text, ``audio`` placeholders, text; padded on the left."""
    long = [5] * 7 + [AUDIO] * audio + [7] * 5
    short = [0] * 3 + [5] * 4 + [AUDIO] * audio + [7] * 5
    ids = torch.tensor([long, short])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def mels(bins: int, frames: int = 40) -> torch.Tensor:
    return torch.randn(2, bins, frames)


def ones(frames: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
    return torch.ones(2, frames, dtype=dtype)


SMALL_ENCODER = dict(
    num_mel_bins=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, d_model=16, max_source_positions=20
)
SPECIALS = dict(image_token_id=101, video_token_id=102)


@family
def qwen2_audio() -> Made:
    config = T.Qwen2AudioConfig(
        text_config=dict(model_type="qwen2", **LANGUAGE), audio_config=SMALL_ENCODER, audio_token_index=AUDIO
    )
    inputs = {**tokens(10), "input_features": mels(8), "feature_attention_mask": ones(40)}
    return T.Qwen2AudioForConditionalGeneration(config), inputs


@family
def qwen2_5_omni() -> Made:
    config = T.Qwen2_5OmniThinkerConfig(
        text_config=dict(**LANGUAGE, rope_parameters=M_ROPE),
        audio_config=dict(**SMALL_ENCODER, n_window=10, output_dim=32),
        vision_config=dict(
            depth=1,
            hidden_size=32,
            intermediate_size=32,
            num_heads=2,
            patch_size=8,
            out_hidden_size=32,
            fullatt_block_indexes=[0],
            window_size=32,
        ),
        audio_token_index=AUDIO,
        image_token_index=101,
        video_token_index=102,
        audio_start_token_id=103,
        audio_end_token_id=104,
        user_token_id=105,
        vision_start_token_id=106,
        vision_end_token_id=107,
    )
    inputs = {**tokens(10), "input_features": mels(8), "feature_attention_mask": ones(40)}
    return T.Qwen2_5OmniThinkerForConditionalGeneration(config), inputs


@family
def qwen3_omni() -> Made:
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

    config = Qwen3OmniMoeThinkerConfig(
        text_config=dict(
            **LANGUAGE,
            rope_parameters=M_ROPE,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            head_dim=8,
        ),
        audio_config=dict(
            SMALL_ENCODER, num_mel_bins=16, n_window=50, n_window_infer=100, output_dim=32, downsample_hidden_size=8
        ),
        vision_config=dict(
            depth=1,
            hidden_size=32,
            intermediate_size=32,
            num_heads=2,
            patch_size=8,
            out_hidden_size=32,
            num_position_embeddings=16,
            deepstack_visual_indexes=[0],
        ),
        audio_token_id=AUDIO,
        audio_start_token_id=103,
        audio_end_token_id=104,
        vision_start_token_id=106,
        vision_end_token_id=107,
        user_token_id=105,
        **SPECIALS,
    )
    inputs = {**tokens(5), "input_features": mels(16), "feature_attention_mask": ones(40)}
    return T.Qwen3OmniMoeThinkerForConditionalGeneration(config), inputs


@family
def voxtral() -> Made:
    config = T.VoxtralConfig(
        text_config=dict(model_type="llama", **LANGUAGE, head_dim=8),
        audio_config=dict(
            model_type="voxtral_encoder",
            hidden_size=16,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_mel_bins=8,
            max_source_positions=20,
        ),
        audio_token_id=AUDIO,
    )
    return T.VoxtralForConditionalGeneration(config), {**tokens(5), "input_features": mels(8)}


def _flamingo(model: Any, config: Any, **more: Any) -> Made:
    made = config(
        text_config=dict(model_type="qwen2", **LANGUAGE),
        audio_config=dict(
            model_type="audioflamingo3_encoder",
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_mel_bins=8,
            max_source_positions=20,
        ),
        audio_token_id=AUDIO,
        **more,
    )
    return model(made), {**tokens(10), "input_features": mels(8), "input_features_mask": ones(40)}


@family
def audio_flamingo_3() -> Made:
    return _flamingo(T.AudioFlamingo3ForConditionalGeneration, T.AudioFlamingo3Config)


@family
def music_flamingo() -> Made:
    return _flamingo(
        T.MusicFlamingoForConditionalGeneration,
        T.MusicFlamingoConfig,
        audio_bos_token_id=103,
        audio_eos_token_id=104,
    )


@family
def granite_speech() -> Made:
    config = T.GraniteSpeechConfig(
        text_config=dict(model_type="granite", **LANGUAGE),
        encoder_config=dict(
            model_type="granite_speech_encoder",
            input_dim=16,
            num_layers=2,
            hidden_dim=16,
            num_heads=2,
            dim_head=8,
            output_dim=8,
            context_size=20,
            max_pos_emb=20,
            conv_kernel_size=3,
            dropout=0.0,
        ),
        projector_config=dict(
            model_type="blip_2_qformer",
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            encoder_hidden_size=16,
            cross_attention_frequency=1,
            vocab_size=10,
        ),
        audio_token_index=AUDIO,
        has_lora_adapter=False,
        downsample_rate=5,
        window_size=15,
        tie_word_embeddings=False,
    )
    inputs = {**tokens(6), "input_features": torch.randn(2, 30, 16), "input_features_mask": ones(6, torch.bool)}
    return T.GraniteSpeechForConditionalGeneration(config), inputs


@family
def phi4_multimodal() -> Made:
    config = T.Phi4MultimodalConfig(
        **LANGUAGE,
        audio_config=dict(
            hidden_size=16,
            intermediate_size=32,
            num_blocks=1,
            num_attention_heads=2,
            ext_pw_out_channel=16,
            depthwise_separable_out_channel=16,
            input_size=16,
            time_reduction=4,
            nemo_conv_channels=8,
            audio_token_id=AUDIO,
            feature_layer=-1,
        ),
        vision_config=dict(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            crop_size=16,
            image_size=16,
            patch_size=8,
            image_token_id=101,
        ),
    )
    inputs = {
        **tokens(10),
        "audio_input_features": torch.randn(2, 40, 16),
        "audio_embed_sizes": torch.tensor([10, 10]),
        "audio_attention_mask": ones(40, torch.bool),
    }
    return T.Phi4MultimodalForCausalLM(config), inputs


GEMMA = dict(
    LANGUAGE,
    num_hidden_layers=4,
    head_dim=8,
    sliding_window=16,
    layer_types=["sliding_attention", "full_attention"] * 2,
)
GEMMA_AUDIO = dict(audio_token_id=AUDIO, boa_token_id=103, eoa_token_index=104, boi_token_id=105, eoi_token_id=106)


@family
def gemma4() -> Made:
    config = T.Gemma4Config(
        text_config=dict(GEMMA, vocab_size_per_layer_input=128, hidden_size_per_layer_input=8, num_kv_shared_layers=2),
        vision_config=None,
        audio_config=dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            subsampling_conv_channels=[16, 4],
            output_proj_dims=16,
            conv_kernel_size=3,
        ),
        **GEMMA_AUDIO,
        **SPECIALS,
    )
    inputs = {**tokens(10), "input_features": torch.randn(2, 40, 16), "input_features_mask": ones(40, torch.bool)}
    return T.Gemma4ForConditionalGeneration(config), inputs


@family
def gemma4_unified() -> Made:
    config = T.Gemma4UnifiedConfig(
        text_config=dict(GEMMA), vision_config=None, audio_config=dict(audio_embed_dim=16), **GEMMA_AUDIO, **SPECIALS
    )
    inputs = {**tokens(10), "input_features": torch.randn(2, 10, 16), "input_features_mask": ones(10, torch.bool)}
    return T.Gemma4UnifiedForConditionalGeneration(config), inputs


@family
def glm_asr() -> Made:
    config = T.GlmAsrConfig(
        text_config=dict(model_type="llama", **LANGUAGE, head_dim=8),
        audio_config=dict(
            model_type="glmasr_encoder",
            hidden_size=16,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_mel_bins=8,
            max_position_embeddings=20,
        ),
        audio_token_id=AUDIO,
    )
    return T.GlmAsrForConditionalGeneration(config), {
        **tokens(5),
        "input_features": mels(8),
        "input_features_mask": ones(40),
    }


@family
def qwen2() -> Made:
    return T.Qwen2ForCausalLM(T.Qwen2Config(**LANGUAGE)), tokens(0)


@family
def llama() -> Made:
    return T.LlamaForCausalLM(T.LlamaConfig(**LANGUAGE)), tokens(0)


def make(name: str) -> Made:
    """A family's model and inputs, from a fixed seed."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[name]()
    return model.eval(), inputs
