"""Stand-in for Qwen-Audio's ChatML."""


def make_context(tokenizer, query, history=None, system=""):
    """ChatML of a conversation with paths of clips in its texts: the text, its tokens, its clips."""
    text = f"<|im_start|>system\n{system}<|im_end|>"
    for question, answer in history or []:
        text += f"\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    text += f"\n<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n"
    audio_info = tokenizer.process_audio(text)
    tokens = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, audio_info=audio_info))
    return text, tokens, audio_info
