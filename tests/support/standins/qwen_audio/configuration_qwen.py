"""Stand-in for Qwen-Audio's configuration: the same names and flags, other sizes."""

from transformers import PretrainedConfig


class QWenConfig(PretrainedConfig):
    model_type = "qwen"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - as in old remote code

    def __init__(
        self,
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        kv_channels=8,
        intermediate_size=64,
        seq_length=512,
        rotary_emb_base=10000,
        layer_norm_epsilon=1e-6,
        initializer_range=0.02,
        use_dynamic_ntk=True,
        use_logn_attn=True,
        use_flash_attn="auto",
        use_cache_quantization=False,
        use_cache_kernel=False,
        bf16=False,
        fp16=False,
        fp32=False,
        use_cache=True,
        audio=None,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.kv_channels = kv_channels
        self.intermediate_size = intermediate_size
        self.seq_length = seq_length
        self.rotary_emb_base = rotary_emb_base
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.use_dynamic_ntk = use_dynamic_ntk
        self.use_logn_attn = use_logn_attn
        self.use_flash_attn = use_flash_attn
        self.use_cache_quantization = use_cache_quantization
        self.use_cache_kernel = use_cache_kernel
        self.bf16, self.fp16, self.fp32 = bf16, fp16, fp32
        self.use_cache = use_cache
        self.audio = audio
        super().__init__(tie_word_embeddings=kwargs.pop("tie_word_embeddings", False), **kwargs)
