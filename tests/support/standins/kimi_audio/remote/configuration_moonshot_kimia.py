"""The stand-in's configuration: Qwen2's, with the settings of the audio stream."""

from transformers.models.qwen2.configuration_qwen2 import Qwen2Config


class KimiAudioConfig(Qwen2Config):
    def __init__(
        self,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        num_base_tokens=0,
        kimia_token_offset=0,
        kimia_mimo_layers=2,
        kimia_mimo_transformer_from_layer_index=1,
        kimia_mimo_audiodelaytokens=6,
        kimia_adaptor_input_dim=8,
        kimia_media_begin=0,
        kimia_media_end=0,
        use_whisper_feature=True,
        **kwargs,
    ):
        # transformers 5 moves rope_theta into rope_parameters
        super().__init__(rope_theta=rope_theta, tie_word_embeddings=tie_word_embeddings, **kwargs)
        self.num_base_tokens = num_base_tokens
        self.kimia_token_offset = kimia_token_offset
        self.kimia_mimo_layers = kimia_mimo_layers
        self.kimia_mimo_transformer_from_layer_index = kimia_mimo_transformer_from_layer_index
        self.kimia_mimo_audiodelaytokens = kimia_mimo_audiodelaytokens
        self.kimia_adaptor_input_dim = kimia_adaptor_input_dim
        self.kimia_media_begin = kimia_media_begin
        self.kimia_media_end = kimia_media_end
        self.use_whisper_feature = use_whisper_feature
