"""A pipecat processor that answers speech with a steered audio-language model: no transcription in between.

It takes the place of speech-to-text and of the language model in a pipeline::

    Pipeline([transport.input(), VADProcessor(...), SarsteerVoice(url, key, model), tts, transport.output()])

Audio between ``VADUserStartedSpeakingFrame`` (or ``UserStartedSpeakingFrame``) and the frame that ends the turn goes to
``sarsteer serve``; its answer streams as ``LLMTextFrame``. On an error nothing is said, and an ``ErrorFrame`` goes
upstream.
"""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAIError
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

STARTS = (UserStartedSpeakingFrame, VADUserStartedSpeakingFrame)
STOPS = (UserStoppedSpeakingFrame, VADUserStoppedSpeakingFrame)


class SarsteerVoice(FrameProcessor):
    """Answers each turn of the user.

    Args:
        base_url: of the server, such as ``http://127.0.0.1:8000/v1``.
        api_key: a tenant's key.
        model: the model that the server serves.
        instruction: the text beside each clip; best the one that the steering file was calibrated with.
        max_tokens: the longest answer.
        history: how many earlier messages are sent again.
        padding: seconds before the detected start that belong to the turn: a detector needs a moment.

    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        instruction: str = "Please answer the question in the audio.",
        max_tokens: int = 200,
        history: int = 6,
        padding: float = 0.3,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._client = AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0)
        self._status = base_url.rstrip("/").removesuffix("/v1") + "/sarsteer"
        self._model, self._instruction, self._max_tokens = model, instruction, max_tokens
        self._history, self._padding = history, padding
        self._turns: list[dict[str, Any]] = []
        self._audio = bytearray()
        self._rate, self._channels = 16_000, 1
        self._speaking = self._steered = False
        self._answer: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Collect audio, and answer when the turn ends."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self._rate, self._channels = frame.sample_rate, frame.num_channels
            self._audio += frame.audio
            if not self._speaking:
                keep = int(self._padding * self._rate) * self._channels * 2
                del self._audio[: max(0, len(self._audio) - keep)]
            return  # nothing behind this processor needs the microphone
        if isinstance(frame, STARTS) and not self._speaking:
            self._speaking = True
            await self._stop()  # the user interrupts
        elif isinstance(frame, (InterruptionFrame, CancelFrame)):
            await self._stop()
        elif isinstance(frame, EndFrame) and self._answer is not None:
            await asyncio.wait([self._answer])  # finish the last answer
        await self.push_frame(frame, direction)
        if isinstance(frame, STOPS) and self._speaking:
            self._speaking, clip = False, self._wav()
            self._audio.clear()
            await self._stop()
            self._answer = asyncio.create_task(self._respond(clip))

    async def cleanup(self) -> None:
        """Called by pipecat at the end."""
        await self._stop()
        await self._client.close()
        await super().cleanup()

    async def _stop(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()
            await asyncio.wait([self._answer])
        self._answer = None

    async def _respond(self, clip: str) -> None:
        question = {
            "role": "user",
            "content": [
                {"type": "input_audio", "input_audio": {"data": clip, "format": "wav"}},
                {"type": "text", "text": self._instruction},
            ],
        }
        began, said = False, ""
        try:
            await self._check()
            stream = await self._client.chat.completions.create(
                model=self._model,
                messages=[*self._turns, question],  # type: ignore[list-item]
                max_tokens=self._max_tokens,
                stream=True,
            )
            async for chunk in stream:
                text = chunk.choices[0].delta.content if chunk.choices else None
                if text and not began:
                    began = True
                    await self.push_frame(LLMFullResponseStartFrame())
                if text:
                    said += text
                    await self.push_frame(LLMTextFrame(text))
            self._turns += [question, {"role": "assistant", "content": said}]
            self._turns = self._turns[-self._history :] if self._history else []
        except (OpenAIError, httpx.HTTPError, RuntimeError) as error:
            await self.push_error(f"sarsteer: {error}", exception=error)
        finally:
            if began:
                await self.push_frame(LLMFullResponseEndFrame())

    async def _check(self) -> None:
        """Raise unless the address is a server that steers: nothing else may answer."""
        if self._steered:
            return
        async with httpx.AsyncClient() as client:
            response = await client.get(self._status, headers={"Authorization": f"Bearer {self._client.api_key}"})
        if response.status_code != 200 or "digest" not in response.text:
            raise RuntimeError(f"{self._status} returned {response.status_code}: this is not a steered server")
        self._steered = True

    def _wav(self) -> str:
        """The turn's audio as a WAV file in base64."""
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(self._channels)
            writer.setsampwidth(2)
            writer.setframerate(self._rate)
            writer.writeframes(bytes(self._audio))
        return base64.b64encode(file.getvalue()).decode()
