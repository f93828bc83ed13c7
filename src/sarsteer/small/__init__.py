"""``sarsteer-small``: a real audio-language model, small enough for a laptop's CPU.

SmolLM2-135M-Instruct with Whisper's speech encoder, joined into Qwen2-Audio's architecture. ``sarsteer.load_model``
loads it by its name.
"""

from sarsteer.small.design import NAME

__all__ = ["NAME"]
