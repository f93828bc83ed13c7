"""Stand-in for Qwen-Audio's encoder: Whisper's log-mel spectrogram and a small encoder of the same structure."""

import os
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SAMPLE_RATE = 16_000
N_FFT = 400
HOP_LENGTH = 160
N_SAMPLES = 30 * SAMPLE_RATE


def get_T_after_cnn(frames):
    """Positions after the two convolutions, the second of stride 2."""
    for stride in (1, 2):
        frames = (frames + 2 - 3) // stride + 1
    return frames


def load_audio(file):
    """The published code uses ffmpeg, which a test machine may not have."""
    import soundfile

    samples, rate = soundfile.read(file, dtype="float32")
    assert rate == SAMPLE_RATE
    return samples


def pad_or_trim(array, length=N_SAMPLES):
    if torch.is_tensor(array):
        return functional.pad(array[..., :length], (0, max(0, length - array.shape[-1])))
    array = array[..., :length]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, length - array.shape[-1])])


@lru_cache(maxsize=None)  # noqa: UP033 - as in old remote code
def mel_filters(device):
    with np.load(os.path.join(os.path.dirname(__file__), "mel_filters.npz")) as file:
        return torch.from_numpy(file["mel_80"]).to(device)


def log_mel_spectrogram(audio):
    if not torch.is_tensor(audio):
        audio = torch.from_numpy(audio)
    spectrum = torch.stft(audio, N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    logs = (mel_filters(audio.device) @ power).clamp(min=1e-10).log10()
    return (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0


def sinusoids(length, channels):
    step = np.log(10_000) / (channels // 2 - 1)
    scale = torch.exp(-step * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * scale[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class EncoderBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.attn_ln, self.mlp_ln = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x, mask):
        batch, length, width = x.shape
        normed = self.attn_ln(x)
        q, k, v = (
            layer(normed).view(batch, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5 + mask).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.mlp_ln(x))


class AudioEncoder(nn.Module):
    def __init__(self, n_mels, n_ctx, n_state, n_head, n_layer, output_dim, **_kwargs):
        super().__init__()
        self.conv1 = nn.Conv1d(n_mels, n_state, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(n_state, n_state, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(n_ctx, n_state))
        self.blocks = nn.ModuleList([EncoderBlock(n_state, n_head) for _ in range(n_layer)])
        self.ln_post = nn.LayerNorm(n_state)
        self.avg_pooler = nn.AvgPool1d(2, stride=2)
        self.proj = nn.Linear(n_state, output_dim)
        self.audio_bos_eos_token = nn.Embedding(2, output_dim)

    def forward(self, mel, lengths):
        mel = mel.to(self.conv1.weight.dtype)[:, :, : 2 * int(lengths.max())]
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel)))).transpose(1, 2)
        x = (x + self.positional_embedding[: x.shape[1]]).to(x.dtype)
        x = x[:, : int(lengths.max())]
        padding = torch.arange(x.shape[1])[None, :] >= lengths[:, None]
        x[padding] = 0
        mask = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return self.proj(self.ln_post(self.avg_pooler(x.transpose(1, 2)).transpose(1, 2)))

    def encode(self, input_audios, input_audio_lengths, audio_span_tokens):
        encoded = self(input_audios, input_audio_lengths[:, 0])
        first, last = self.audio_bos_eos_token.weight[:1], self.audio_bos_eos_token.weight[1:]
        return [torch.cat([first, row[: span - 2], last]) for row, span in zip(encoded, audio_span_tokens, strict=True)]
