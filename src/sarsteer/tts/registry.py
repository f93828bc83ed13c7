"""The registry of speech engines."""

from __future__ import annotations

import dataclasses

from sarsteer.errors import SpeechError
from sarsteer.registry import Registry, options_of
from sarsteer.tts.engine import Engine

ENGINES: Registry[Engine] = Registry("speech engine", Engine, "sarsteer.tts", SpeechError)  # type: ignore[type-abstract]
"""Every speech engine, by name; other packages add theirs through the entry-point group ``sarsteer.tts``."""


def load_engine(spec: str, *, model: str | None = None, base_url: str | None = None) -> Engine:
    """The engine that ``spec`` names.

    Args:
        spec: such as ``"espeak"`` or ``"openai:tts-1,base_url=http://localhost:8000/v1"``.
        model: the engine's option of that name.
        base_url: the engine's option of that name.

    Raises:
        SpeechError: the engine is unknown or not installed, or does not have these options.

    """
    engine = ENGINES.parse(spec)
    given = {name: value for name, value in (("model", model), ("base_url", base_url)) if value is not None}
    if unknown := sorted(given.keys() - options_of(type(engine)).keys()):
        raise SpeechError(f"{engine.name} runs locally and takes no {' or '.join(unknown)}; use the engine openai")
    return dataclasses.replace(engine, **given)
