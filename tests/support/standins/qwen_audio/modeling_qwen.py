"""Stand-in for Qwen-Audio's model: the structure of code for transformers 4.32, at the smallest size.

Written from scratch. It shares with the published code what a compatibility layer handles: names of modules and
buffers, the layout of the cache, removed methods of ``PreTrainedModel``, and where clips enter.
"""

import math
import os
import shutil

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from .audio import AudioEncoder
from .configuration_qwen import QWenConfig
from .qwen_generation_utils import make_context


def rotated(x, angles):
    cos, sin = (part.to(torch.float32) for part in angles)
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).type_as(x)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, base):
        super().__init__()
        self.dim, self.base = dim, base
        self.register_buffer("inv_freq", 1.0 / base ** (torch.arange(0, dim, 2).float() / dim), persistent=False)
        self._ntk_alpha_cached_list = [1.0]

    def forward(self, length, ntk_alpha):
        base = self.base * ntk_alpha ** (self.dim / (self.dim - 2))
        frequencies = 1.0 / base ** (torch.arange(0, self.dim, 2, device=self.inv_freq.device).float() / self.dim)
        angles = torch.outer(torch.arange(length, device=self.inv_freq.device).float(), frequencies)
        angles = torch.cat((angles, angles), dim=-1)[None, :, None, :]
        return angles.cos(), angles.sin()


class QWenAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.register_buffer("masked_bias", torch.tensor(-1e4), persistent=False)
        self.seq_length = config.seq_length
        self.num_heads, self.head_dim = config.num_attention_heads, config.kv_channels
        width = config.kv_channels * config.num_attention_heads
        self.c_attn = nn.Linear(config.hidden_size, 3 * width)
        self.c_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.use_logn_attn = config.use_logn_attn
        scale = [math.log(i, self.seq_length) if i > self.seq_length else 1 for i in range(1, 32768)]
        self.register_buffer("logn_tensor", torch.tensor(scale)[None, :, None, None], persistent=False)
        self.cache_qmax = torch.tensor(255.0)  # not a buffer: stays on the meta device if the model is built there

    def forward(self, hidden_states, rotary_pos_emb_list, layer_past, attention_mask, use_cache):
        batch, length, width = hidden_states.shape
        query, key, value = (
            part.view(batch, length, self.num_heads, self.head_dim)
            for part in self.c_attn(hidden_states).split(width, dim=2)
        )
        recent = [[part[:, -length:] for part in angles] for angles in rotary_pos_emb_list]
        recent = recent * batch if len(recent) == 1 else recent
        query = torch.cat([rotated(query[i : i + 1], recent[i]) for i in range(batch)])
        key = torch.cat([rotated(key[i : i + 1], recent[i]) for i in range(batch)])
        if layer_past is not None:
            key = torch.cat((layer_past[0], key), dim=1)
            value = torch.cat((layer_past[1], value), dim=1)
        present = (key, value) if use_cache else None
        total = key.shape[1]
        if self.use_logn_attn:
            query = query * self.logn_tensor[:, total - length : total].type_as(query)
        causal = torch.ones((total, total), dtype=torch.bool, device=key.device).tril()[total - length :]
        mask = torch.zeros((1, 1, 1, total), dtype=query.dtype) if attention_mask is None else attention_mask
        mask = mask.expand(-1, -1, length, -1).masked_fill(~causal, torch.finfo(query.dtype).min)
        out = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
        )
        return self.c_proj(out.transpose(1, 2).reshape(batch, length, width)), present


class QWenMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        inner = config.intermediate_size // 2
        self.w1 = nn.Linear(config.hidden_size, inner, bias=False)
        self.w2 = nn.Linear(config.hidden_size, inner, bias=False)
        self.c_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(self, x):
        return self.c_proj(self.w1(x) * functional.silu(self.w2(x)))


class QWenBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = QWenAttention(config)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = QWenMLP(config)

    def forward(self, hidden_states, rotary_pos_emb_list, layer_past, attention_mask, head_mask, use_cache):
        attended, present = self.attn(
            self.ln_1(hidden_states), rotary_pos_emb_list, layer_past, attention_mask, use_cache
        )
        hidden_states = hidden_states + attended
        hidden_states = hidden_states + self.mlp(self.ln_2(hidden_states))
        return (hidden_states, present) if use_cache else (hidden_states,)


class QWenPreTrainedModel(PreTrainedModel):
    config_class = QWenConfig
    base_model_prefix = "transformer"
    is_parallelizable = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["QWenBlock"]  # noqa: RUF012 - as in old remote code

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(mean=0.0, std=self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                module.bias.data.zero_()
        for name, parameter in module.named_parameters():
            if name == "c_proj.weight":
                std = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
                parameter.data.normal_(mean=0.0, std=std)

    def _set_gradient_checkpointing(self, module, value=False):
        pass


class QWenModel(QWenPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary_emb = RotaryEmbedding(config.kv_channels, config.rotary_emb_base)
        self.h = nn.ModuleList([QWenBlock(config) for _ in range(config.num_hidden_layers)])
        self.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.audio = AudioEncoder(**config.audio)
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, new_embeddings):
        self.wte = new_embeddings

    def get_ntk_alpha(self, length):
        return max(2 ** math.ceil(math.log(length / self.config.seq_length, 2) + 1) - 1, 1)

    def forward(
        self,
        input_ids=None,
        past_key_values=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        audio_info=None,
    ):
        audios = None
        first_id = self.config.audio["audio_start_id"]
        if past_key_values is None and torch.any(input_ids == first_id):
            begins, ends = torch.where(input_ids == first_id), torch.where(input_ids == first_id + 1)
            assert (begins[0] == ends[0]).all()
            audios = self.audio.encode(
                audio_info["input_audios"], audio_info["input_audio_lengths"], audio_info["audio_span_tokens"]
            )
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        past_length = 0 if past_key_values is None else past_key_values[0][0].size(1)
        layer_pasts = past_key_values or [None] * len(self.h)
        if attention_mask is not None:
            attention_mask = attention_mask.view(len(input_ids), -1)[:, None, None, :].to(self.dtype)
            attention_mask = (1.0 - attention_mask) * torch.finfo(self.dtype).min
        head_mask = self.get_head_mask(head_mask, self.config.num_hidden_layers)

        hidden_states = self.wte(input_ids)
        total = past_length + hidden_states.shape[1]
        if not self.config.use_dynamic_ntk:
            alphas = [1.0]
        elif past_length:
            alphas = self.rotary_emb._ntk_alpha_cached_list
        elif attention_mask is not None and total > self.config.seq_length:
            alphas = [self.get_ntk_alpha(int(row.eq(0).sum())) for row in attention_mask]
        else:
            alphas = [self.get_ntk_alpha(total)]
        self.rotary_emb._ntk_alpha_cached_list = alphas
        rotary_pos_emb_list = [self.rotary_emb(total, alpha) for alpha in alphas]

        for index, clip in enumerate(audios or ()):
            hidden_states[begins[0][index], begins[1][index] : ends[1][index] + 1] = clip
        presents = () if use_cache else None
        states = () if output_hidden_states else None
        for block, layer_past, block_mask in zip(self.h, layer_pasts, head_mask, strict=True):
            if output_hidden_states:
                states += (hidden_states,)
            outputs = block(
                hidden_states,
                rotary_pos_emb_list=rotary_pos_emb_list,
                layer_past=layer_past,
                attention_mask=attention_mask,
                head_mask=block_mask,
                use_cache=use_cache,
            )
            hidden_states = outputs[0]
            if use_cache:
                presents += (outputs[1],)
        hidden_states = self.ln_f(hidden_states)
        if not return_dict:
            return tuple(v for v in (hidden_states, presents, states) if v is not None)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, past_key_values=presents, hidden_states=states)


class QWenLMHeadModel(QWenPreTrainedModel):
    _keys_to_ignore_on_load_missing = [r"h\.\d+\.attn\.rotary_emb\.inv_freq"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"h\.\d+\.attn\.masked_bias"]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        assert config.bf16 + config.fp16 + config.fp32 <= 1
        if config.use_flash_attn == "auto":
            config.use_flash_attn = bool(config.bf16 or config.fp16)
        self.transformer = QWenModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for flag, dtype in ((config.bf16, torch.bfloat16), (config.fp16, torch.float16)):
            if flag:
                self.transformer.to(dtype)
                self.lm_head.to(dtype)
        self.post_init()

    @classmethod
    def from_pretrained(cls, path, *model_args, config=None, cache_dir=None, **kwargs):
        filters = os.path.join(path, "mel_filters.npz")
        print(filters)
        shutil.copy(filters, os.path.join(os.path.dirname(__file__), "mel_filters.npz"))
        return super().from_pretrained(path, *model_args, config=config, cache_dir=cache_dir, **kwargs)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, new_embeddings):
        self.lm_head = new_embeddings

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, inputs_embeds=None, **kwargs):
        if past_key_values:
            input_ids = input_ids[:, -1:]
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "attention_mask": kwargs.get("attention_mask"),
            "audio_info": kwargs.pop("audio_info", None),
        }

    def forward(
        self,
        input_ids=None,
        past_key_values=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        audio_info=None,
    ):
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        out = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            head_mask=head_mask,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            audio_info=audio_info,
        )
        logits = self.lm_head(out[0])
        if not return_dict:
            return (logits, *out[1:])
        return CausalLMOutputWithPast(
            logits=logits, past_key_values=out.past_key_values, hidden_states=out.hidden_states
        )

    @staticmethod
    def _reorder_cache(past_key_values, beam_idx):
        return tuple(tuple(state.index_select(0, beam_idx) for state in layer) for layer in past_key_values)

    def chat(self, tokenizer, query, history=None, system="You are a helpful assistant.", **kwargs):
        _, tokens, audio_info = make_context(tokenizer, query, history, system)
        input_ids = torch.tensor([tokens])
        out = self.generate(input_ids, audio_info=audio_info, **kwargs)
        return tokenizer.decode(out[0, len(tokens) :].tolist())

    def chat_stream(self, *args, **kwargs):
        from transformers_stream_generator.main import NewGenerationMixin  # noqa: F401 - needs transformers 4

        raise NotImplementedError

    def generate(
        self,
        inputs=None,
        generation_config=None,
        logits_processor=None,
        stopping_criteria=None,
        prefix_allowed_tokens_fn=None,
        synced_gpus=None,
        assistant_model=None,
        streamer=None,
        **kwargs,
    ):
        generation_config = generation_config if generation_config is not None else self.generation_config
        stop_words_ids = kwargs.pop("stop_words_ids", None)
        if stop_words_ids is not None:
            kwargs["eos_token_id"] = [ids[0] for ids in stop_words_ids]
        return super().generate(
            inputs,
            generation_config=generation_config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            synced_gpus=synced_gpus,
            assistant_model=assistant_model,
            streamer=streamer,
            **kwargs,
        )
