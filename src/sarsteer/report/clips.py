"""Clips inside a page, as data URIs: the page can be sent and opened anywhere."""

from __future__ import annotations

import base64
import io
from pathlib import Path

CLIP_LIMIT = 1_000_000
"""Bytes of one clip: half a minute of 16 kHz speech as WAV."""
PAGE_LIMIT = 30_000_000
"""Bytes of all clips together; browsers open such a page at once."""


class Clips:
    """The clips of one page. Each is read once, even if many defenses answered it.

    Attributes:
        uris: the data URIs, in the order of their keys.
        left_out: the number of clips that are not in the page.

    """

    def __init__(self, folder: Path, wanted: bool = True, compressed: bool = False) -> None:
        """Relative paths start at the working directory or, failing that, at ``folder``.

        With ``compressed``, WAV files become MP3, at a tenth of the size.
        """
        self.uris: list[str] = []
        self.left_out = 0
        self._folder, self._wanted, self._compressed, self._bytes = folder, wanted, compressed, 0
        self._known: dict[str, tuple[int | None, str]] = {}

    def add(self, path: str) -> tuple[int | None, str]:
        """The key of a clip; None and the reason if it is not in the page."""
        if path not in self._known:
            self._known[path] = self._read(path)
            self.left_out += self._known[path][0] is None
        return self._known[path]

    def _read(self, path: str) -> tuple[int | None, str]:
        if not self._wanted:
            return None, "clips were left out"
        try:
            file = next((p for p in (Path(path), self._folder / path) if p.is_file()), None)
            if file is None:
                return None, "the clip no longer exists"
            size = file.stat().st_size
            if size > CLIP_LIMIT:
                return None, f"the clip is too long for a page ({size / 1e6:.1f} MB)"
            if self._bytes + size > PAGE_LIMIT and not self._compressed:
                return None, f"the page is full of clips ({PAGE_LIMIT / 1e6:.0f} MB)"
            data = file.read_bytes()
        except (OSError, ValueError):
            return None, "the clip cannot be read"
        kind = sound_kind(data)
        if kind is None:
            return None, "browsers do not play this kind of file"
        if self._compressed and kind == "audio/wav":
            data, kind = _as_mp3(data)
        if self._bytes + len(data) > PAGE_LIMIT:
            return None, f"the page is full of clips ({PAGE_LIMIT / 1e6:.0f} MB)"
        self._bytes += len(data)
        self.uris.append(f"data:{kind};base64,{base64.b64encode(data).decode()}")
        return len(self.uris) - 1, ""


def _as_mp3(wav: bytes) -> tuple[bytes, str]:
    """A WAV file as MP3, and its media type; the file itself if it cannot be converted."""
    import soundfile

    coded = io.BytesIO()
    try:
        samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
        soundfile.write(coded, samples, rate, format="MP3")
    except (soundfile.SoundFileError, ValueError, TypeError):  # an odd rate, or a libsndfile without MP3
        return wav, "audio/wav"
    return coded.getvalue(), "audio/mpeg"


def sound_kind(data: bytes) -> str | None:
    """The media type by the first bytes; None for other files.

    Results may come from anyone, and a path in them may name any file: only sound is copied into the page.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    if data[:4] == b"OggS":
        return "audio/ogg"
    if data[:4] == b"fLaC":
        return "audio/flac"
    if data[4:8] == b"ftyp":
        return "audio/mp4"
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        return "audio/mpeg"
    return None
