"""A LiveKit agent whose language model is a sarsteer server: ``python livekit_agent.py dev``.

LiveKit transcribes speech before it asks the model, so the model reads text: the defense sees the words, not the voice.
Needs ``livekit-agents``, ``livekit-plugins-openai``, a LiveKit server, and plugins for speech (here OpenAI's).
"""

from __future__ import annotations

import os

from livekit.agents import Agent, AgentSession, JobContext, WorkerOptions, cli
from livekit.plugins import openai


def steered_model() -> openai.LLM:
    """The server's model."""
    return openai.LLM(
        model=os.environ.get("SARSTEER_MODEL", "sarsteer-tiny"),
        base_url=os.environ.get("SARSTEER_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("SARSTEER_KEY", "none"),
        max_completion_tokens=200,
    )


async def entrypoint(context: JobContext) -> None:
    """Called by LiveKit for each room."""
    await context.connect()
    session = AgentSession(stt=openai.STT(), llm=steered_model(), tts=openai.TTS())
    await session.start(agent=Agent(instructions="You are a helpful assistant."), room=context.room)


if __name__ == "__main__":
    cli.run_app(WorkerOptions(entrypoint_fnc=entrypoint))
