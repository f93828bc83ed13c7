"""A voice assistant on one machine: a WAV file is the microphone, sarsteer answers, eSpeak NG speaks.

Start ``sarsteer serve`` as in docs/server.md, then::

    python examples/voice_loop.py recording.wav --url http://127.0.0.1:8000/v1 --out answers

The recording is read in frames of 20 ms. A turn ends when its energy has been low for 0.6 s. Each turn goes to the
server as audio; the answer is printed while it streams, and spoken into ``answers/answer-1.wav``, ``answer-2.wav``, ...
Needs ``pip install 'sarsteer[api,tts]'``.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from openai import OpenAI, OpenAIError

from sarsteer.errors import SarsteerError
from sarsteer.tts.clips import speak, write_clip
from sarsteer.tts.speaker import Speaker

FRAME_SECONDS = 0.02
SILENCE_SECONDS = 0.6
PADDING_SECONDS = 0.2
LOUD = 4.0
"""Speech is this much louder than the quietest tenth of the last seconds."""
INSTRUCTION = "Please answer the question in the audio."


def frames(file: Path, paced: bool) -> Iterator[tuple[np.ndarray, int]]:
    """Frames of a mono recording and its rate; ``paced`` as fast as a microphone gives them."""
    with soundfile.SoundFile(file) as sound:
        size = round(FRAME_SECONDS * sound.samplerate)
        for block in sound.blocks(size, dtype="float32", always_2d=True):
            if paced:
                time.sleep(FRAME_SECONDS)
            yield block.mean(axis=1), sound.samplerate


def turns(stream: Iterator[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
    """The user's turns. The noise floor is measured continuously, so that a fan is not speech."""
    energies: list[float] = []
    turn: list[np.ndarray] = []
    speaking, quiet, rate = False, 0.0, 16_000
    for frame, rate in stream:
        energies = [*energies[-500:], float(np.sqrt(np.mean(frame**2)))]
        floor = max(float(np.quantile(energies, 0.1)), 1e-4)
        loud = energies[-1] > LOUD * floor
        turn.append(frame)
        if loud:
            speaking, quiet = True, 0.0
        elif not speaking:
            turn = turn[-round(PADDING_SECONDS / FRAME_SECONDS) :]
        else:
            quiet += FRAME_SECONDS
            if quiet >= SILENCE_SECONDS:
                yield np.concatenate(turn), rate
                turn, speaking, quiet = [], False, 0.0
    if speaking:
        yield np.concatenate(turn), rate


def question(samples: np.ndarray, rate: int) -> dict[str, Any]:
    """A turn as a message."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    data = base64.b64encode(file.getvalue()).decode()
    audio = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return {"role": "user", "content": [audio, {"type": "text", "text": INSTRUCTION}]}


def answer(client: OpenAI, model: str, messages: list[dict[str, Any]], tokens: int) -> str:
    """Print an answer while it streams; returns it."""
    options: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": tokens, "stream": True}
    begin = time.perf_counter()
    with client.chat.completions.with_streaming_response.create(**options) as response:
        decision = response.headers.get("X-Sarsteer-Decision", "hidden")
        print(f"[{decision}] ", end="", flush=True)
        text, first = "", 0.0
        for chunk in response.parse():
            piece = chunk.choices[0].delta.content if chunk.choices else None
            if piece:
                first = first or time.perf_counter() - begin
                text += piece
                print(piece, end="", flush=True)
    print(f"  ({first:.2f} s to the first word)")
    return text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("recording", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="sarsteer-tiny")
    parser.add_argument("--voice", default="en-us")
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--keep-turns", action="store_true", help="send earlier turns again with each question")
    parser.add_argument("--paced", action="store_true", help="read the recording at the speed of a microphone")
    parser.add_argument("--out", type=Path, default=Path("answers"))
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (SarsteerError, OpenAIError, soundfile.LibsndfileError) as error:
        sys.exit(f"error: {error}")


def run(arguments: Any) -> None:
    """Answer every turn of the recording."""
    speaker = Speaker.parse(arguments.voice)
    client = OpenAI(base_url=arguments.url, api_key=arguments.key, max_retries=0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    messages: list[dict[str, Any]] = []
    number = 0
    for number, (samples, rate) in enumerate(turns(frames(arguments.recording, arguments.paced)), 1):
        print(f"turn {number}: {len(samples) / rate:.1f} s  ", end="")
        messages = [*(messages if arguments.keep_turns else []), question(samples, rate)]
        text = answer(client, arguments.model, messages, arguments.max_tokens)
        messages.append({"role": "assistant", "content": text})
        if text:
            write_clip(arguments.out / f"answer-{number}.wav", speak(speaker, text))
    if not number:
        sys.exit(f"error: {arguments.recording} has no speech; give a recording with a spoken question")


if __name__ == "__main__":
    main()
