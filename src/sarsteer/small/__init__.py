"""``sarsteer-small``: a real audio-language model, small enough for a laptop's CPU.

SmolLM2-135M-Instruct with Whisper's speech encoder, joined into Qwen2-Audio's architecture.
"""

from sarsteer.small.design import NAME
from sarsteer.small.load import export_small, load_small

__all__ = ["NAME", "export_small", "load_small"]
