"""Speech models of transformers that only transcribe: they answer no request, so there is nothing to steer."""

from __future__ import annotations

from sarsteer.errors import ModelError

TRANSCRIBERS = {
    "CanaryForConditionalGeneration": "Canary",
    "CohereAsrForConditionalGeneration": "Cohere Transcribe",
    "FunAsrNanoForConditionalGeneration": "Fun-ASR",
    "GraniteSpeech5ForCTC": "Granite Speech 5",
    "KyutaiSpeechToTextForConditionalGeneration": "Kyutai STT",
    "LasrForCTC": "LASR",
    "MoonshineForConditionalGeneration": "Moonshine",
    "MoonshineStreamingForConditionalGeneration": "Moonshine",
    "MossTranscribeDiarizeForConditionalGeneration": "MOSS-Transcribe-Diarize",
    "Nemotron3_5AsrForRNNT": "Nemotron 3.5 ASR",
    "Nemotron3_5TranscribeForConditionalGeneration": "Nemotron 3.5 Transcribe",
    "NemotronAsrStreamingForRNNT": "Nemotron Speech Streaming",
    "OmniASRForCTC": "OmniASR",
    "OmniASRForConditionalGeneration": "OmniASR",
    "ParakeetForCTC": "Parakeet",
    "ParakeetForRNNT": "Parakeet",
    "ParakeetForTDT": "Parakeet",
    "Qwen3ASRForConditionalGeneration": "Qwen3-ASR",
    "Speech2TextForConditionalGeneration": "Speech2Text",
    "VibeVoiceAsrForConditionalGeneration": "VibeVoice-ASR",
    "VoxtralRealtimeForConditionalGeneration": "Voxtral Realtime",
    "WhisperForConditionalGeneration": "Whisper",
}
"""The published name by class of transformers, as in ``config.architectures``.

Some have the decoder of a language model (Fun-ASR, Qwen3-ASR, VibeVoice-ASR), whose text is a hint for the transcript.
"""


def refuse_transcriber(name: str, architecture: str) -> None:
    """Raise ``ModelError`` if ``architecture`` only transcribes; ``name`` is what the user calls the model."""
    published = TRANSCRIBERS.get(architecture)
    if published is not None:
        raise ModelError(
            f"{name}: {published} only transcribes speech and answers no requests, so there is nothing to steer; "
            "use a model that answers (see: sarsteer models)"
        )
