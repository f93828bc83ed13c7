"""pipecat and LiveKit Agents against a server. Settings as JSON on standard input; prints JSON."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
import wave
from typing import Any

from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    LLMTextFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.tests.utils import run_test

from examples.integrations.pipecat_voice import SarsteerVoice


async def spoken(processor: SarsteerVoice, wav: bytes) -> dict[str, Any]:
    """What the processor pushes for one turn."""
    with wave.open(io.BytesIO(wav)) as reader:
        rate, data = reader.getframerate(), reader.readframes(reader.getnframes())
    size = rate // 50 * 2  # 20 ms
    audio = [
        InputAudioRawFrame(audio=data[i : i + size], sample_rate=rate, num_channels=1)
        for i in range(0, len(data), size)
    ]
    frames = [VADUserStartedSpeakingFrame(), *audio, VADUserStoppedSpeakingFrame()]
    down, up = await run_test(processor, frames_to_send=frames, start_timeout=60)
    return {
        "kinds": list(dict.fromkeys(type(frame).__name__ for frame in down)),
        "text": "".join(frame.text for frame in down if isinstance(frame, LLMTextFrame)),
        "errors": [frame.error for frame in up if isinstance(frame, ErrorFrame)],
    }


async def livekit(settings: dict[str, Any]) -> str:
    from livekit.agents.llm import ChatContext

    from examples.integrations.livekit_agent import steered_model

    os.environ |= {
        "SARSTEER_URL": settings["url"],
        "SARSTEER_KEY": settings["key"],
        "SARSTEER_MODEL": settings["model"],
    }
    context = ChatContext.empty()
    context.add_message(role="user", content=settings["text"])
    model = steered_model()
    text = ""
    async with model.chat(chat_ctx=context) as stream:
        async for chunk in stream:
            text += (chunk.delta.content or "") if chunk.delta else ""
    await model.aclose()
    return text


async def main() -> None:
    settings = json.load(sys.stdin)
    wav = base64.b64decode(settings["wav"])
    voice = [settings["url"], settings["key"], settings["model"]]
    found = {
        "pipecat": await spoken(SarsteerVoice(*voice, max_tokens=settings["tokens"]), wav),
        "no server": await spoken(SarsteerVoice("http://127.0.0.1:9/v1", *voice[1:]), wav),
        "livekit": await livekit(settings),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
