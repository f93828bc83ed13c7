"""The model's parts before training: tokenizer, feature extractor, configuration, processor."""

from __future__ import annotations

import itertools
from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from sarsteer.tiny import world
from sarsteer.tiny.world import Request
from training.tiny.clips import RATE, SECONDS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
SYSTEM = "You are a helpful assistant."
VOCABULARY = 768
WIDTH, LAYERS = 256, 8

CHAT_TEMPLATE = (
    "{% set clips = namespace(n=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}{% set clips.n = clips.n + 1 %}"
    "Audio {{ clips.n }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the toy world's sentences. It contains every byte, so it encodes any text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    combos = world.safe_combinations() + world.harmful_combinations()
    requests = [Request(v, o, i % len(world.PHRASINGS), world.SUFFIXES[i % 8]) for i, (v, o) in enumerate(combos)]
    prompts = [i + gap + p for i in world.INSTRUCTIONS for p in world.SAFETY_PROMPTS for gap in ("", " ")]
    statements = [
        s.format(a=a, o="car", p=p, pl=pl)
        for s, a, p, pl in itertools.product(world.STATEMENTS, world.ADJECTIVES, world.PEOPLE, world.PLACES)
    ]
    tasks = [world.TRANSCRIBE, world.COUNT, world.VOICE, "A man.", "A woman.", world.REFUSAL, SYSTEM]
    corpus = [
        *(r.question for r in requests),
        *(r.answer for r in requests),
        *prompts * 20,
        *statements,
        *tasks * 50,
        *(f"I hear {d} numbers. {d}" for d in world.DIGITS * 30),
        *world.NEUTRAL_SUFFIXES * 30,
        *["system user assistant Audio 1: "] * 50,
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        padding_side="left",
    )


@lru_cache(maxsize=1)
def training_feature_extractor() -> WhisperFeatureExtractor:
    """The feature extractor for training, with a short window for speed."""
    return WhisperFeatureExtractor(feature_size=80, sampling_rate=RATE, chunk_length=SECONDS)


def processor(tok: PreTrainedTokenizerFast) -> Qwen2AudioProcessor:
    """The shipped processor, with the standard 30 s window."""
    features = WhisperFeatureExtractor(feature_size=80, sampling_rate=RATE, chunk_length=30)
    return Qwen2AudioProcessor(feature_extractor=features, tokenizer=tok, chat_template=CHAT_TEMPLATE)


def configuration(tok: PreTrainedTokenizerFast, seconds: int = 30) -> Qwen2AudioConfig:
    """The model's configuration with an audio window of ``seconds``. Weights load into windows of any length."""
    return Qwen2AudioConfig(
        audio_config=dict(
            num_mel_bins=80,
            encoder_layers=4,
            encoder_attention_heads=4,
            encoder_ffn_dim=640,
            d_model=160,
            max_source_positions=seconds * 50,
        ),
        text_config=dict(
            model_type="qwen2",
            vocab_size=len(tok),
            hidden_size=WIDTH,
            intermediate_size=640,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            attention_dropout=0.0,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        ),
        audio_token_index=tok.convert_tokens_to_ids("<|AUDIO|>"),
        # set twice: transformers reads this flag, vLLM the text configuration's
        tie_word_embeddings=True,
    )


def build(tok: PreTrainedTokenizerFast, seconds: int) -> Qwen2AudioForConditionalGeneration:
    """A new model. Its audio positions are fixed sinusoids for any window."""
    import torch
    from transformers.models.whisper.modeling_whisper import sinusoids

    model = Qwen2AudioForConditionalGeneration(configuration(tok, seconds))
    positions = model.model.audio_tower.embed_positions
    with torch.no_grad():
        positions.weight.copy_(sinusoids(*positions.weight.shape))
    positions.weight.requires_grad_(False)
    return model
