"""Files of visitors: they lie in a private folder, no other path is opened, and no URL is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sarsteer.audio import Clip
from sarsteer.errors import AudioError, SarsteerError
from sarsteer.server.limits import Limits
from sarsteer.server.media import read_clip


def only_uploads(component: Any, folder: Path) -> Any:
    """Let a component take and return files of ``folder`` only.

    Gradio itself copies any file that a request names into its cache unless ``launch()`` started the app, and fetches
    any URL; this replaces the method that does both.
    """
    top = folder.resolve()

    def checked(path: str | Path | None) -> str | None:
        if path is None:
            return None
        if not Path(path).resolve().is_relative_to(top):
            raise SarsteerError("is not an uploaded file", place="the request")
        return str(path)

    async def move(path: str | Path | None) -> str | None:
        return checked(path)

    component.move_resource_to_block_cache = checked
    component.async_move_resource_to_block_cache = move
    return component


def read_upload(path: str, limits: Limits) -> Clip:
    """The clip in an uploaded file, under its own name.

    Raises:
        AudioError: it is not a valid clip.

    """
    file = Path(path)
    if file.stat().st_size > limits.body_bytes:
        raise AudioError(f"is larger than {limits.body_bytes // 2**20} MiB; give a shorter clip", place=file.name)
    return read_clip(file.read_bytes(), file.name, limits)
