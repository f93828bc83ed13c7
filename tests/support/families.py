"""Tiny random models of the families: transformers' real classes, with their real processors.

Each entry returns ``(model, processor)`` at the smallest size that runs. All share a ChatML template and a byte-level
tokenizer, whose special tokens are the families' placeholders.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers as T

from sarsteer import AudioLanguageModel
from tests.support.tiny import byte_tokenizer

NAMED = {
    "audio_token": "<|audio|>",
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "boa_token": "<|boa|>",
    "eoa_token": "<|eoa|>",
    "boi_token": "<|boi|>",
    "eoi_token": "<|eoi|>",
}
OTHERS = ("<so_start>", "<so_end>")


def tokenizer() -> Any:
    """A new tokenizer each time, because processors add tokens to it."""
    words = byte_tokenizer(*NAMED.values(), *OTHERS)
    for name, token in NAMED.items():
        setattr(words, name, token)
        setattr(words, f"{name}_id", words.convert_tokens_to_ids(token))
    return words


_IDS = {token: tokenizer().convert_tokens_to_ids(token) for token in (*NAMED.values(), *OTHERS)}
AUDIO, IMAGE, VIDEO = _IDS["<|audio|>"], _IDS["<|image|>"], _IDS["<|video|>"]
VOCABULARY = 288
LANGUAGE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    initializer_range=0.2,
)
M_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}  # the sections sum to half a head
Made = tuple[torch.nn.Module, Any]
FAMILIES: dict[str, Callable[[], Made]] = {}


def template(audio: str = "<|audio|>", image: str = "<|image|>", video: str = "<|video|>") -> str:
    """A ChatML template with a placeholder for each part."""
    parts = "".join(
        "{%- elif part['type'] == '" + kind + "' -%}" + place
        for kind, place in (("audio", audio), ("image", image), ("video", video))
    )
    return (
        "{%- for message in messages -%}<|im_start|>{{ message['role'] + '\n' }}"
        "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
        "{%- for part in message['content'] -%}"
        "{%- if part['type'] == 'text' -%}{{ part['text'] }}" + parts + "{%- endif -%}{%- endfor -%}{%- endif -%}"
        "<|im_end|>{{ '\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|im_start|>{{ 'assistant\n' }}{%- endif -%}"
    )


def family(make: Callable[[], Made]) -> Callable[[], Made]:
    """Register a function under its name."""
    FAMILIES[make.__name__] = make
    return make


def without_torchvision(processor: Any) -> Any:
    """A processor class without its image and video parts, which need torchvision and are not tested here."""
    return type(processor.__name__, (processor,), {"check_argument_for_proper_class": lambda *_: None})


NO_VIDEO = SimpleNamespace(merge_size=2, temporal_patch_size=2, model_input_names=[])
"""The attributes of an unused video part that older omni processors read."""


def whisper(bins: int = 8, chunk: int = 30) -> T.WhisperFeatureExtractor:
    return T.WhisperFeatureExtractor(feature_size=bins, sampling_rate=16_000, hop_length=160, chunk_length=chunk)


SMALL_ENCODER = dict(
    num_mel_bins=8,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=32,
    d_model=16,
    max_source_positions=1500,
    initializer_range=0.2,
)
SMALL_VISION = dict(depth=1, hidden_size=32, intermediate_size=32, num_heads=2, patch_size=8, out_hidden_size=32)


@family
def qwen2_audio() -> Made:
    config = T.Qwen2AudioConfig(
        text_config=dict(model_type="qwen2", **LANGUAGE), audio_config=SMALL_ENCODER, audio_token_index=AUDIO
    )
    processor = T.Qwen2AudioProcessor(
        feature_extractor=whisper(), tokenizer=tokenizer(), chat_template=template(), audio_token="<|audio|>"
    )
    return T.Qwen2AudioForConditionalGeneration(config), processor


@family
def qwen2_5_omni() -> Made:
    config = T.Qwen2_5OmniThinkerConfig(
        text_config=dict(**LANGUAGE, rope_parameters=M_ROPE),
        audio_config=dict(**SMALL_ENCODER, n_window=10, output_dim=32),
        vision_config=dict(**SMALL_VISION, fullatt_block_indexes=[0], window_size=32),
        audio_token_index=AUDIO,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        audio_start_token_id=_IDS["<|audio_bos|>"],
        audio_end_token_id=_IDS["<|audio_eos|>"],
        user_token_id=5,
        vision_start_token_id=_IDS["<|vision_bos|>"],
        vision_end_token_id=_IDS["<|vision_eos|>"],
    )
    return T.Qwen2_5OmniThinkerForConditionalGeneration(config), _omni(T.Qwen2_5OmniProcessor, 8)


def _omni(processor: Any, bins: int) -> Any:
    images = T.Qwen2VLImageProcessor(patch_size=8, merge_size=2, min_pixels=256, max_pixels=1024)
    return without_torchvision(processor)(
        image_processor=images,
        video_processor=NO_VIDEO,
        feature_extractor=whisper(bins),
        tokenizer=tokenizer(),
        chat_template=template(
            audio="<|audio_bos|><|audio|><|audio_eos|>", image="<|vision_bos|><|image|><|vision_eos|>"
        ),
    )


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
        vision_config=dict(**SMALL_VISION, num_position_embeddings=16, deepstack_visual_indexes=[0]),
        audio_token_id=AUDIO,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_start_token_id=_IDS["<|audio_bos|>"],
        audio_end_token_id=_IDS["<|audio_eos|>"],
        vision_start_token_id=_IDS["<|vision_bos|>"],
        vision_end_token_id=_IDS["<|vision_eos|>"],
        user_token_id=5,
    )
    return T.Qwen3OmniMoeThinkerForConditionalGeneration(config), _omni(T.Qwen3OmniMoeProcessor, 16)


@family
def voxtral() -> Made:
    return make_voxtral({}, {})


def make_voxtral(text: dict[str, Any], audio: dict[str, Any]) -> Made:
    """A Voxtral whose sizes differ from the smallest ones as given."""
    from transformers.tokenization_mistral_common import MistralCommonBackend

    encoder = dict(
        model_type="voxtral_encoder",
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_mel_bins=8,
        max_source_positions=1500,
        initializer_range=0.2,
    )
    config = T.VoxtralConfig(
        text_config={**dict(model_type="llama", **{**LANGUAGE, "vocab_size": 296}, head_dim=8), **text},
        audio_config={**encoder, **audio},
        audio_token_id=24,
    )
    with tempfile.TemporaryDirectory() as folder:
        words = MistralCommonBackend(tekken(Path(folder) / "tekken.json"))
    return T.VoxtralForConditionalGeneration(config), T.VoxtralProcessor(whisper(), words)


def tekken(path: Path) -> Path:
    """A vocabulary in mistral-common's format: one token per byte, and Voxtral's control tokens at their ids."""
    controls = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]"}
    controls |= {6: "[/AVAILABLE_TOOLS]", 7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 10: "[IMG]"}
    controls |= {11: "<pad>", 12: "[IMG_BREAK]", 13: "[IMG_END]", 14: "[PREFIX]", 15: "[MIDDLE]", 16: "[SUFFIX]"}
    controls |= {17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]", 19: "[TOOL_CONTENT]", 20: "[ARGS]", 21: "[CALL_ID]"}
    controls |= {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
    special = [
        {"rank": rank, "token_str": controls.get(rank, f"<SPECIAL_{rank}>"), "is_control": True} for rank in range(40)
    ]
    vocabulary = [
        {"rank": byte, "token_bytes": base64.b64encode(bytes([byte])).decode(), "token_str": None}
        for byte in range(256)
    ]
    config = {
        "pattern": r"\s+|\S",
        "num_vocab_tokens": 256,
        "default_vocab_size": 296,
        "default_num_special_tokens": 40,
        "version": "v7",
    }
    encoding = {"num_mel_bins": 8, "window_size": 400, "hop_length": 160}
    audio = {"sampling_rate": 16_000, "frame_rate": 12.5, "audio_encoding_config": encoding, "chunk_length_s": 30.0}
    path.write_text(json.dumps({"config": config, "vocab": vocabulary, "special_tokens": special, "audio": audio}))
    return path


def _flamingo_config(config: Any, **more: Any) -> Any:
    return config(
        text_config=dict(model_type="qwen2", **LANGUAGE),
        audio_config=dict(
            model_type="audioflamingo3_encoder",
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_mel_bins=8,
            max_source_positions=1500,
            initializer_range=0.2,
        ),
        audio_token_id=AUDIO,
        **more,
    )


def _flamingo_processor(processor: Any, **more: Any) -> Any:
    return processor(
        feature_extractor=whisper(), tokenizer=tokenizer(), chat_template=template(), audio_token="<|audio|>", **more
    )


@family
def audio_flamingo_3() -> Made:
    model = T.AudioFlamingo3ForConditionalGeneration(_flamingo_config(T.AudioFlamingo3Config))
    return model, _flamingo_processor(T.AudioFlamingo3Processor)


@family
def music_flamingo() -> Made:
    ends = dict(audio_bos_token_id=_IDS["<|audio_bos|>"], audio_eos_token_id=_IDS["<|audio_eos|>"])
    model = T.MusicFlamingoForConditionalGeneration(_flamingo_config(T.MusicFlamingoConfig, **ends))
    ends = dict(audio_bos_token="<|audio_bos|>", audio_eos_token="<|audio_eos|>")
    return model, _flamingo_processor(T.MusicFlamingoProcessor, **ends)


class MelFeatures(T.FeatureExtractionMixin):  # type: ignore[misc]
    """Audio frames for Granite Speech, in the shapes of its own extractor, which needs torchaudio."""

    model_input_names = ("input_features", "input_features_mask")
    sampling_rate = 16_000

    def __init__(self, bins: int = 16, hop: int = 320, window: int = 15, tokens: int = 3, **more: Any) -> None:
        super().__init__(bins=bins, hop=hop, window=window, tokens=tokens, **more)

    def __call__(self, audio: Any, device: str = "cpu") -> Any:
        frames = [np.abs(np.fft.rfft(self._frames(clip)))[:, : self.bins].astype(np.float32) for clip in audio]
        sizes = [-(-len(rows) // self.window) * self.tokens for rows in frames]
        features = torch.zeros(len(frames), max(map(len, frames)), self.bins)
        for index, rows in enumerate(frames):
            features[index, : len(rows)] = torch.from_numpy(rows)
        mask = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
        return T.BatchFeature(
            {"input_features": features, "audio_embed_sizes": torch.tensor(sizes), "input_features_mask": mask}
        )

    def fetch_audio(self, audio: Any, **_: Any) -> Any:
        return audio

    def _frames(self, clip: Any) -> Any:
        clip = np.asarray(clip).reshape(-1)
        count = len(clip) // self.hop
        return clip[: count * self.hop].reshape(count, self.hop)


GRANITE_ENCODER = dict(
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
)
GRANITE_PROJECTOR = dict(
    model_type="blip_2_qformer",
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    encoder_hidden_size=16,
    cross_attention_frequency=1,
    vocab_size=10,
)
GRANITE = dict(
    audio_token_index=AUDIO, has_lora_adapter=False, downsample_rate=5, window_size=15, tie_word_embeddings=False
)


@family
def granite_speech() -> Made:
    config = T.GraniteSpeechConfig(
        text_config=dict(model_type="granite", **LANGUAGE),
        encoder_config=dict(GRANITE_ENCODER, model_type="granite_speech_encoder"),
        projector_config=GRANITE_PROJECTOR,
        **GRANITE,
    )
    return T.GraniteSpeechForConditionalGeneration(config), _granite_processor()


def _granite_processor() -> Any:
    return T.GraniteSpeechProcessor(MelFeatures(), tokenizer(), chat_template=template())


@family
def granite_speech_plus() -> Made:
    config = T.GraniteSpeechPlusConfig(
        text_config=dict(model_type="granite", **LANGUAGE),
        encoder_config=dict(GRANITE_ENCODER, model_type="granite_speech_plus_encoder", cat_hidden_layers=[1]),
        projector_config=dict(GRANITE_PROJECTOR, encoder_hidden_size=32),
        **GRANITE,
    )
    return T.GraniteSpeechPlusForConditionalGeneration(config), _granite_processor()


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
            time_reduction=8,
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
            image_token_id=IMAGE,
        ),
    )
    extractor = T.Phi4MultimodalFeatureExtractor(feature_size=16, audio_compression_rate=8)
    processor = without_torchvision(T.Phi4MultimodalProcessor)(None, extractor, tokenizer(), chat_template=template())
    return T.Phi4MultimodalForCausalLM(config), processor


GEMMA = dict(
    LANGUAGE,
    num_hidden_layers=4,
    head_dim=8,
    sliding_window=16,
    layer_types=["sliding_attention", "full_attention"] * 2,
)
GEMMA_PLACES = dict(
    audio_token_id=AUDIO,
    boa_token_id=_IDS["<|boa|>"],
    boi_token_id=_IDS["<|boi|>"],
    image_token_id=IMAGE,
    video_token_id=VIDEO,
)


@family
def gemma3n() -> Made:
    config = T.Gemma3nConfig(
        text_config=dict(
            GEMMA,
            intermediate_size=[64] * 4,
            vocab_size_per_layer_input=VOCABULARY - 8,
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=2,
            laurel_rank=4,
            altup_num_inputs=2,
            activation_sparsity_pattern=[0.0] * 4,
        ),
        vision_config=dict(
            architecture="mobilenetv5_300m_enc", hidden_size=16, vocab_size=4, vocab_offset=VOCABULARY - 8
        ),
        audio_config=dict(
            hidden_size=16,
            input_feat_size=16,
            conf_num_hidden_layers=1,
            conf_num_attention_heads=2,
            sscp_conv_channel_size=[8, 4],
            vocab_size=4,
            vocab_offset=VOCABULARY - 4,
            conf_reduction_factor=4,
            conf_conv_kernel_size=3,
        ),
        audio_soft_tokens_per_image=12,
        **GEMMA_PLACES,
    )
    from transformers.models.gemma3n import modeling_gemma3n

    from_config = modeling_gemma3n.AutoModel.from_config

    def without_vision(part: Any, **options: Any) -> Any:  # its vision tower needs timm, which needs torchvision
        return torch.nn.Identity() if part.model_type == "gemma3n_vision" else from_config(part, **options)

    with mock.patch.object(modeling_gemma3n.AutoModel, "from_config", without_vision):
        model = T.Gemma3nForConditionalGeneration(config)
    extractor = T.Gemma3nAudioFeatureExtractor(feature_size=16)
    processor = without_torchvision(T.Gemma3nProcessor)(
        extractor, None, tokenizer(), chat_template=template(), audio_seq_length=12
    )
    return model, processor


@family
def gemma4() -> Made:
    config = T.Gemma4Config(
        text_config=dict(
            GEMMA, vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8, num_kv_shared_layers=2
        ),
        vision_config=None,
        audio_config=dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            subsampling_conv_channels=[16, 4],
            output_proj_dims=16,
            conv_kernel_size=3,
        ),
        eoa_token_index=_IDS["<|eoa|>"],
        eoi_token_id=_IDS["<|eoi|>"],
        **GEMMA_PLACES,
    )
    extractor = T.Gemma4AudioFeatureExtractor(feature_size=16)
    processor = without_torchvision(T.Gemma4Processor)(extractor, None, tokenizer(), None, chat_template=template())
    return T.Gemma4ForConditionalGeneration(config), processor


@family
def gemma4_unified() -> Made:
    config = T.Gemma4UnifiedConfig(
        text_config=dict(GEMMA),
        vision_config=None,
        audio_config=dict(audio_embed_dim=640),
        eoa_token_index=_IDS["<|eoa|>"],
        eoi_token_id=_IDS["<|eoi|>"],
        **GEMMA_PLACES,
    )
    extractor = T.Gemma4UnifiedAudioFeatureExtractor()
    processor = without_torchvision(T.Gemma4UnifiedProcessor)(
        extractor, None, tokenizer(), None, chat_template=template()
    )
    return T.Gemma4UnifiedForConditionalGeneration(config), processor


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
            max_position_embeddings=1500,
        ),
        audio_token_id=AUDIO,
    )
    return T.GlmAsrForConditionalGeneration(config), _flamingo_processor(T.GlmAsrProcessor)


@family
def nemotron_h_omni() -> Made:
    from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config

    text = dict(
        {k: v for k, v in LANGUAGE.items() if k != "num_hidden_layers"},
        model_type="nemotron_h",
        head_dim=8,
        layers_block_type=["linear_attention", "full_attention", "mlp", "moe"],
        mamba_num_heads=4,
        mamba_head_dim=8,
        ssm_state_size=8,
        n_groups=1,
        conv_kernel=4,
        chunk_size=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16,
        n_group=1,
        topk_group=1,
        use_mamba_kernels=False,
    )
    config = NemotronH_Omni_Reasoning_V3_Config(
        text_config=text,
        vision_config=dict(
            model_type="radio", video_temporal_patch_size=2, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
        ),
        audio_config=dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            num_mel_bins=16,
            subsampling_conv_channels=8,
            subsampling_factor=4,
            conv_kernel_size=3,
            max_position_embeddings=64,
            projection_hidden_size=16,
            projection_bias=False,
        ),
        vision_hidden_size=32,
        projector_hidden_size=32,
        audio_token_id=AUDIO,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    processor = without_torchvision(T.NemotronH_Omni_Reasoning_V3Processor)(
        None,
        None,
        tokenizer(),
        T.ParakeetFeatureExtractor(feature_size=16),
        chat_template=template(),
        audio_subsampling_factor=4,
    )
    return T.NemotronH_Omni_Reasoning_V3(config), processor


@family
def inkling() -> Made:
    text = dict(
        LANGUAGE,
        num_hidden_layers=4,
        head_dim=8,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=2,
        swa_head_dim=8,
        sliding_window_size=16,
        local_layer_ids=[0, 2],
        d_rel=4,
        rel_extent=32,
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        logits_mup_width_multiplier=1.0,
    )
    text.pop("pad_token_id")
    config = T.InklingConfig(
        text_config=text,
        audio_config=dict(n_mel_bins=16, mel_vocab_size=16),
        vision_config=dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=4),
        image_token_id=IMAGE,
        audio_token_id=AUDIO,
        image_bos_token_id=_IDS["<|boi|>"],
        audio_bos_token_id=_IDS["<|boa|>"],
    )
    kind = without_torchvision(T.InklingProcessor)
    kind.model_input_names = ["audio_input_ids", "audio_input_ids_mask", "input_ids", "attention_mask"]
    processor = kind(
        T.InklingFeatureExtractor(feature_size=16),
        None,
        tokenizer(),
        chat_template=template(audio="<|boa|><|audio|>"),
        image_bos_token="<|boi|>",
        audio_bos_token="<|boa|>",
    )
    return T.InklingForConditionalGeneration(config), processor


@family
def muse_spark() -> Made:
    config = T.MuseSparkConfig(
        text_config=dict(
            LANGUAGE,
            num_hidden_layers=4,
            head_dim=8,
            sliding_window=16,
            moe_intermediate_size=16,
            moe_hidden_size=16,
            num_local_experts=4,
            num_experts_per_tok=2,
        ),
        vision_config=dict(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=4
        ),
        audio_config=dict(
            patch_sizes=(40, 48), hidden_sizes=(8, 16), depths=(1, 1), num_hidden_layers=2, out_hidden_size=32
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
        out_hidden_size=32,
        projector_hidden_size=16,
    )
    words = tokenizer()
    words.audio_start_token, words.audio_end_token = "<|audio_bos|>", "<|audio_eos|>"
    processor = without_torchvision(T.MuseSparkProcessor)(
        None, None, words, T.MuseSparkFeatureExtractor(), chat_template=template()
    )
    return T.MuseSparkForConditionalGeneration(config), processor


@family
def qwen2_5_vl() -> Made:
    config = T.Qwen2_5_VLConfig(
        text_config=dict(**LANGUAGE, rope_parameters=M_ROPE),
        vision_config=dict(**SMALL_VISION, fullatt_block_indexes=[0], window_size=32),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=_IDS["<|vision_bos|>"],
        vision_end_token_id=_IDS["<|vision_eos|>"],
    )
    images = T.Qwen2VLImageProcessor(patch_size=8, merge_size=2, min_pixels=256, max_pixels=1024)
    look = template(image="<|vision_bos|><|image|><|vision_eos|>")
    return T.Qwen2_5_VLForConditionalGeneration(config), without_torchvision(T.Qwen2_5_VLProcessor)(
        image_processor=images, tokenizer=tokenizer(), chat_template=look
    )


@family
def qwen2() -> Made:
    return T.Qwen2ForCausalLM(T.Qwen2Config(**LANGUAGE)), _text_tokenizer()


@family
def llama() -> Made:
    return T.LlamaForCausalLM(T.LlamaConfig(**LANGUAGE)), _text_tokenizer()


def _text_tokenizer() -> Any:
    words = tokenizer()
    words.chat_template = template()
    return words


def make(name: str) -> AudioLanguageModel:
    """A family's model, from a fixed seed."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    model.eval()
    model.generation_config.eos_token_id = None
    return AudioLanguageModel(model, processor, name=f"tiny-{name}")
