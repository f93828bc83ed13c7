"""The stand-in's modules: written for transformers 4 like the real ones, with sdpa instead of flash-attn.

Four things break on transformers 5: ``config.rope_theta``, the positional ``position_ids`` of
``apply_rotary_pos_emb``, tied keys as a list, and, silently, rotary tables that are filled on construction only.
"""

import math

import torch
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2PreTrainedModel, Qwen2RMSNorm, apply_rotary_pos_emb

from .configuration_moonshot_kimia import KimiAudioConfig


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, max_position_embeddings=2048, base=10000, device=None):
        super().__init__()
        self.dim, self.max_position_embeddings, self.base = dim, max_position_embeddings, base
        inverse = 1.0 / base ** (torch.arange(0, dim, 2).float().to(device) / dim)
        self.register_buffer("inv_freq", inverse, persistent=False)
        self._set_cos_sin_cache(max_position_embeddings, inverse.device, torch.get_default_dtype())

    def _set_cos_sin_cache(self, seq_len, device, dtype):
        self.max_seq_len_cached = seq_len
        angles = torch.outer(torch.arange(seq_len, device=device).float(), self.inv_freq).repeat(1, 2)
        self.register_buffer("cos_cached", angles.cos().to(dtype), persistent=False)
        self.register_buffer("sin_cached", angles.sin().to(dtype), persistent=False)

    def forward(self, x, seq_len):
        if seq_len > self.max_seq_len_cached:
            self._set_cos_sin_cache(seq_len, x.device, x.dtype)
        return self.cos_cached[:seq_len].to(x.dtype), self.sin_cached[:seq_len].to(x.dtype)


class MoonshotAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = config.hidden_size // self.heads
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.size)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.size)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.rotary_emb = RotaryEmbedding(
            self.size, max_position_embeddings=config.max_position_embeddings, base=config.rope_theta
        )

    def forward(self, hidden_states, position_ids, past_key_value=None, use_cache=False):
        rows, length, _ = hidden_states.shape

        def split(states, heads):
            return states.view(rows, length, heads, self.size).transpose(1, 2)

        query = split(self.q_proj(hidden_states), self.heads)
        key = split(self.k_proj(hidden_states), self.kv_heads)
        value = split(self.v_proj(hidden_states), self.kv_heads)
        past = 0 if past_key_value is None else past_key_value[0].shape[-2]
        cos, sin = self.rotary_emb(value, seq_len=past + length)
        query, key = apply_rotary_pos_emb(query, key, cos[position_ids], sin[position_ids], position_ids)
        if past_key_value is not None:
            key = torch.cat([past_key_value[0], key], dim=2)
            value = torch.cat([past_key_value[1], value], dim=2)
        present = (key, value) if use_cache else None
        seen = torch.ones(length, past + length, dtype=torch.bool, device=key.device).tril(past)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1)), present


class MoonshotDecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = MoonshotAttention(config)
        self.mlp = Qwen2MLP(config)
        self.input_layernorm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states, position_ids=None, past_key_value=None, use_cache=False):
        mixed, present = self.self_attn(self.input_layernorm(hidden_states), position_ids, past_key_value, use_cache)
        hidden_states = hidden_states + mixed
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return (hidden_states, present) if use_cache else (hidden_states,)


class VQAdaptor(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(config.kimia_adaptor_input_dim, config.hidden_size),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.LayerNorm(config.hidden_size, eps=config.rms_norm_eps),
        )

    def forward(self, features):
        return self.layers(features)


class MoonshotKimiaModel(Qwen2PreTrainedModel):
    config_class = KimiAudioConfig

    def __init__(self, config):
        super().__init__(config)
        self.branch = config.kimia_mimo_transformer_from_layer_index
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(MoonshotDecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mimo_layers = nn.ModuleList(MoonshotDecoderLayer(config) for _ in range(config.kimia_mimo_layers))
        self.mimo_norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.vq_adaptor = VQAdaptor(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def _embed(self, input_ids, text_input_ids, features, mask):
        sound = self.embed_tokens(input_ids)
        if features is not None:
            starts = (input_ids[0] == self.config.kimia_media_begin).nonzero().flatten().tolist()
            ends = (input_ids[0] == self.config.kimia_media_end).nonzero().flatten().tolist()
            spread = torch.zeros(input_ids.shape[1], features[0].shape[-1], dtype=sound.dtype, device=sound.device)
            assert len(starts) == len(features)
            for feature, start, end in zip(features, starts, ends, strict=True):
                spread[start + 1 : end] = feature[0, : end - start - 1].to(sound.dtype)
            mixed = (sound + self.vq_adaptor(spread)[None]) * math.sqrt(2.0)
            sound = torch.where(mask[..., None], mixed, sound)
        return sound + self.embed_tokens(text_input_ids)

    def forward(
        self,
        input_ids=None,
        text_input_ids=None,
        whisper_input_feature=None,
        is_continuous_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        use_cache = self.config.use_cache if use_cache is None else use_cache
        past = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        if position_ids is None:
            position_ids = torch.arange(past, past + input_ids.shape[1], device=input_ids.device)[None]
        hidden = self._embed(input_ids, text_input_ids, whisper_input_feature, is_continuous_mask)
        cache = ()

        def run(layer, hidden):
            nonlocal cache
            old = None if past_key_values is None else past_key_values[len(cache)]
            out = layer(hidden, position_ids=position_ids, past_key_value=old, use_cache=use_cache)
            cache += (out[1] if use_cache else None,)
            return out[0]

        for index, layer in enumerate(self.layers):
            hidden = run(layer, hidden)
            if index == self.branch:
                sound = hidden.clone()
        for layer in self.mimo_layers:
            sound = run(layer, sound)
        return self.norm(hidden), self.mimo_norm(sound), cache if use_cache else None


class MoonshotKimiaForCausalLM(Qwen2PreTrainedModel):
    _tied_weights_keys = ["lm_head.weight", "mimo_output.weight"]  # noqa: RUF012
    config_class = KimiAudioConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = MoonshotKimiaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mimo_output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def get_decoder(self):
        return self.model

    def forward(self, input_ids=None, return_dict=None, **inputs):
        text, sound, cache = self.model(input_ids=input_ids, return_dict=return_dict, **inputs)
        return self.mimo_output(sound), self.lm_head(text), cache
