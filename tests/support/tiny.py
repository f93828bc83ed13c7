"""A tiny random Qwen2-Audio with a working processor: the real classes, at the smallest size."""

from __future__ import annotations

import numpy as np
import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sarsteer import AudioLanguageModel


def byte_tokenizer(*special: str) -> T.PreTrainedTokenizerFast:
    """One token per byte, and the special tokens."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return T.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        additional_special_tokens=["<|im_start|>", *special],
    )


def tiny_qwen2_audio(seed: int, layers: int = 4, width: int = 32) -> AudioLanguageModel:
    """Random weights, large enough that layers matter: the default initialization leaves the logits nearly flat."""
    tokenizer = byte_tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    extractor = T.WhisperFeatureExtractor(feature_size=16, sampling_rate=16_000, hop_length=160, chunk_length=30)
    processor = T.Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer)
    config = T.Qwen2AudioConfig(
        text_config=dict(
            model_type="qwen2",
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.2,
        ),
        audio_config=dict(
            d_model=16,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            num_mel_bins=16,
            max_source_positions=1500,
            initializer_range=0.2,
        ),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(seed)
    model = T.Qwen2AudioForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return AudioLanguageModel(model, processor, name=f"tiny-qwen2-audio-{seed}")


def conversation(seed: int, seconds: float = 0.5, text: str = "What is said?") -> list[dict[str, object]]:
    """One user turn with a clip of noise."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))
    audio = {"type": "audio", "audio": samples.astype(np.float32), "sampling_rate": 16_000}
    return [{"role": "user", "content": [audio, {"type": "text", "text": text}]}]


def random_vectors(model: AudioLanguageModel) -> torch.Tensor:
    """One vector per decoder layer, from a fixed seed."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(len(model.decoder_layers), model.hidden_size, generator=generator)


def compile_config() -> T.CompileConfig:
    """Compiled decoding with the eager backend: graphs are traced and guarded as usual."""
    config = T.CompileConfig(backend="eager", mode=None, fullgraph=True)
    config._compile_all_devices = True  # transformers compiles only on GPUs by default
    return config
