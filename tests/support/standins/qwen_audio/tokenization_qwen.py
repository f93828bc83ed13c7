"""Stand-in for Qwen-Audio's tokenizer: tiktoken, paths of clips in the text, and control tokens read from the text."""

import base64
import re
import unicodedata

import tiktoken
import torch
from transformers import PreTrainedTokenizer

from .audio import get_T_after_cnn, load_audio, log_mel_spectrogram, pad_or_trim

PAT_STR = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))


class QWenTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "qwen.tiktoken"}  # noqa: RUF012 - as in old remote code

    def __init__(self, vocab_file, errors="replace", **kwargs):
        super().__init__(**kwargs)  # before its own attributes exist, as in the published code
        self.errors = errors
        self.AUDIO_ST = ("[[[AUDIO:modality]]]", "<|transcribe|>", "<|0.00|>", "<audio>", "</audio>")
        with open(vocab_file, "rb") as file:
            self.mergeable_ranks = {
                base64.b64decode(token): int(rank) for token, rank in (line.split() for line in file if line.strip())
            }
        names = SPECIAL_TOKENS + self.AUDIO_ST
        self.special_tokens = {name: len(self.mergeable_ranks) + i for i, name in enumerate(names)}
        self.tokenizer = tiktoken.Encoding(
            "Qwen", pat_str=PAT_STR, mergeable_ranks=self.mergeable_ranks, special_tokens=self.special_tokens
        )
        self.decoder = {i: token for token, i in {**self.mergeable_ranks, **self.special_tokens}.items()}
        self.im_start_id, self.im_end_id = (self.special_tokens[name] for name in SPECIAL_TOKENS[1:3])

    def __len__(self):
        return self.tokenizer.n_vocab

    @property
    def vocab_size(self):
        return self.tokenizer.n_vocab

    def get_vocab(self):
        return self.mergeable_ranks

    def _add_tokens(self, new_tokens, special_tokens=False):
        if any(str(token) not in SPECIAL_TOKENS + self.AUDIO_ST for token in new_tokens):
            raise ValueError("unknown special tokens cannot be added")
        return 0

    def convert_tokens_to_ids(self, tokens):
        return [self.special_tokens.get(token, self.mergeable_ranks.get(token)) for token in tokens]

    def tokenize(self, text, allowed_special="all", disallowed_special=(), audio_info=None, **_kwargs):
        text = unicodedata.normalize("NFC", text)
        encoded = self.tokenizer.encode(text, allowed_special=allowed_special, disallowed_special=disallowed_special)
        spans = iter(() if audio_info is None else audio_info["audio_span_tokens"])
        tokens, inside = [], False
        for token in (self.decoder[i] for i in encoded):
            if token == "</audio>":
                inside = False
            if not inside:
                tokens.append(token)
            if token == "<audio>":
                inside = True
                tokens += ["[[[AUDIO:modality]]]"] * (next(spans) - 2)
        return tokens

    def process_audio(self, text):
        paths = re.findall(r"<audio>(.*?)</audio>", text)
        if not paths:
            return None
        mels, lengths, spans = [], [], []
        for path in paths:
            samples = load_audio(path)
            after = get_T_after_cnn(min(len(samples), 480_000) // 160)
            count = (after - 2) // 2 + 1
            mels.append(log_mel_spectrogram(pad_or_trim(samples)))
            lengths.append([after, count])
            spans.append(count + 2)
        return {
            "input_audios": torch.stack(mels),
            "input_audio_lengths": torch.IntTensor(lengths),
            "audio_span_tokens": spans,
            "audio_urls": paths,
        }
