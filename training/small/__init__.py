"""Train ``sarsteer-small``: SmolLM2-135M-Instruct with a Whisper encoder, joined into a Qwen2-Audio model."""
