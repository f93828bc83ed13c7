"""``sarsteer-small``: a real audio-language model, small enough for a laptop's CPU.

SmolLM2-135M-Instruct with Whisper's speech encoder, joined into Qwen2-Audio's architecture.
"""
