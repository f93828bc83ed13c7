"""Issue 13, item 10: URLs are opened only if the operator's switch says so, and then within limits."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sarsteer
from sarsteer import urls
from sarsteer.audio import load_clip
from sarsteer.errors import AudioError, MessageError
from sarsteer.messages import InputLimits, check_untrusted, read_conversation


class Handler(http.server.BaseHTTPRequestHandler):
    paths: list[str]
    data: bytes

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.paths.append(self.path)
        kind = self.path.strip("/").partition("?")[0]
        if kind.startswith("to-"):
            port = self.server.server_address[1]
            targets = {"to-clip": "/clip.wav", "to-file": "file:///etc/hostname", "to-ftp": "ftp://example.org/a.wav"}
            loop = f"http://localhost:{port}/to-loop"
            self.send_response(302)
            self.send_header("Location", targets.get(kind, loop))
            self.end_headers()
        elif kind == "drips":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(600):
                    self.wfile.write(b".")
                    if threading.Event().wait(0.05):
                        break
        elif kind in ("clip.wav", "cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.data)))
            self.end_headers()
            self.wfile.write(self.data if kind == "clip.wav" else self.data[: len(self.data) // 2])
        else:
            self.send_error(404)


@pytest.fixture
def server(wav: Path) -> Iterator[Any]:
    handler = type("ThisHandler", (Handler,), {"paths": [], "data": wav.read_bytes()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        running.block_on_close = False  # the dripping answer is left behind
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.url = f"http://127.0.0.1:{running.server_port}"  # type: ignore[attr-defined]
        running.paths = handler.paths  # type: ignore[attr-defined]
        yield running
        running.shutdown()


@pytest.mark.parametrize("value", ["", "none", None])
def test_no_url_is_opened_by_default(server: Any, wav: Path, value: str | None, monkeypatch: Any) -> None:
    monkeypatch.delenv(urls.SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(urls.SWITCH, value)
    clip = f"{server.url}/clip.wav"
    limits = InputLimits(rate=16_000)
    for address in (clip, clip.replace("http", "HTTP"), wav.as_uri(), "File://" + str(wav)):
        with pytest.raises(AudioError, match=rf"URLs are not opened.*{urls.SWITCH}=(public|all)"):
            load_clip(address)
        for part in (
            {"type": "audio", "url": address},
            {"type": "audio", "path": address},
            {"type": "audio", "audio": address},
            {"type": "audio_url", "audio_url": {"url": address}},
        ):
            with pytest.raises(AudioError, match="URLs are not opened"):
                read_conversation([{"role": "user", "content": [part]}], limits)
        with pytest.raises(AudioError, match="URLs are not opened"):
            read_conversation(sarsteer.user_turn(address), limits)
    assert server.paths == [], "an address was opened"


def test_the_switch_opens_urls(server: Any, wav: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(urls.SWITCH, "all")
    digest = load_clip(wav).digest
    for source in (
        f"{server.url}/clip.wav",
        f"{server.url}/to-clip",
        wav.as_uri(),
        wav.as_uri().upper()[:4] + wav.as_uri()[4:],
    ):
        assert load_clip(source).digest == digest
    for source, says in (
        (f"{server.url}/none.wav", "cannot be fetched"),
        (f"{server.url}/cut", "was closed after"),
        ("http://127.0.0.1:9/clip.wav", "cannot be fetched"),
        ("http://[bad/clip.wav", "cannot be fetched|Invalid"),
        ("ftp://example.org/clip.wav", "ftp URLs are not supported"),
        ((wav.parent / "none.wav").as_uri(), "cannot be fetched"),
    ):
        with pytest.raises(AudioError, match=says):
            load_clip(source)


@pytest.mark.parametrize("path", ["to-file", "to-ftp", "to-loop"])
def test_redirects_lead_to_no_file_and_end(server: Any, path: str, monkeypatch: Any) -> None:
    monkeypatch.setenv(urls.SWITCH, "all")
    with pytest.raises(AudioError, match="cannot be fetched"):
        load_clip(f"{server.url}/{path}")
    assert len(server.paths) <= 1 + urls.MAX_REDIRECTS


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"],
)
def test_private_addresses_need_all(host: str, server: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv(urls.SWITCH, "public")
    with pytest.raises(AudioError, match=r"not a public address; SARSTEER_ALLOW_URLS=all|cannot be fetched"):
        load_clip(f"http://{host}:{server.server_port}/clip.wav")
    assert server.paths == []


def test_a_name_that_resolves_differently_the_second_time(server: Any, monkeypatch: Any) -> None:
    """DNS rebinding: the check sees a public address, and the connection gets a private one."""
    monkeypatch.setenv(urls.SWITCH, "public")
    answers = iter([[(2, 1, 6, "", ("93.184.215.14", 80))]])
    real = socket.getaddrinfo

    def rebinding(host: Any, *more: Any, **named: Any) -> Any:
        return next(answers, None) or real("127.0.0.1", *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with pytest.raises(AudioError, match=r"127\.0\.0\.1 is not a public address"):
        load_clip(f"http://rebinds.example:{server.server_port}/clip.wav")
    assert server.paths == [], "a request was sent"


def test_limits_on_size_and_time(server: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv(urls.SWITCH, "all")
    monkeypatch.setattr(urls, "MAX_SECONDS", 0.3)
    with pytest.raises(AudioError, match=r"cannot be fetched \(it took longer than 0\.3 s\)"):
        load_clip(f"{server.url}/drips")
    monkeypatch.setattr(urls, "MAX_SECONDS", 30.0)
    monkeypatch.setattr(urls, "MAX_BYTES", 1000)
    with pytest.raises(AudioError, match="is larger than"):
        load_clip(f"{server.url}/clip.wav")


def test_a_wrong_value_and_secrets(monkeypatch: Any) -> None:
    monkeypatch.setenv(urls.SWITCH, "yes")
    with pytest.raises(AudioError, match="SARSTEER_ALLOW_URLS=yes: must be none, public or all"):
        load_clip("http://example.org/a.wav")
    monkeypatch.delenv(urls.SWITCH)
    with pytest.raises(AudioError) as caught:
        load_clip("https://user:secret@example.org/a.wav?signature=secret#secret")
    assert "secret" not in str(caught.value)
    assert "https://example.org/a.wav" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"type": "audio", "path": "/etc/hostname"}, "path is not accepted from others"),
        ({"type": "audio", "audio": "/etc/hostname"}, "audio is not accepted from others"),
        ({"type": "audio", "url": "/etc/hostname"}, "url is not a data: or web URL"),
        ({"type": "audio", "url": "file:///etc/hostname"}, "url is not a data: or web URL"),
        ({"type": "audio_url", "audio_url": {"url": "/etc/hostname"}}, "audio_url is not a data: or web URL"),
        ({"type": "image_url", "image_url": {"url": ["/etc/hostname"]}}, "image_url is not"),
        ({"type": "image", "image": "/etc/hostname"}, "image is not accepted from others"),
        ({"type": "video", "video": "/etc/hostname"}, "video is not accepted from others"),
    ],
)
def test_conversations_of_others_open_no_local_file(part: dict[str, Any], says: str) -> None:
    conversation = [{"role": "user", "content": "hello"}, {"role": "user", "content": [part]}]
    with pytest.raises(MessageError, match=f"message 1, part 0: {says}"):
        check_untrusted(conversation)


def test_conversations_of_others_in_the_openai_form_pass(wav: Path) -> None:
    part = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    web = {"type": "audio_url", "audio_url": {"url": "https://example.org/a.wav"}}
    data = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    check_untrusted([{"role": "user", "content": [part, web, data, {"type": "text", "text": "hello"}]}])
