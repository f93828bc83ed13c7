"""Fetch clips from URLs. Off by default: conversations, manifests and requests may come from strangers.

``SARSTEER_ALLOW_URLS`` is the only switch. ``public`` allows ``http`` and ``https`` to public addresses; ``all`` also
allows private and loopback addresses, and ``file``. A redirect is checked like the first address, and a connection is
checked again before anything is sent, so that a name that resolves differently the second time gains nothing.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sarsteer.errors import AudioError

SWITCH = "SARSTEER_ALLOW_URLS"

MAX_BYTES = 256 * 1024 * 1024
"""Largest file that is fetched."""

MAX_SECONDS = 30.0
"""Time for a whole fetch, redirects included."""

MAX_REDIRECTS = 5

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(text: str) -> bool:
    """Whether ``text`` has the form of a URL that names a place: ``SCHEME://...``, in any case."""
    return _SCHEME.match(text) is not None


def allowed_urls() -> str:
    """The value of the switch: ``none``, ``public`` or ``all``.

    Raises:
        AudioError: it has another value.

    """
    value = os.environ.get(SWITCH, "").strip() or "none"
    if value not in ("none", "public", "all"):
        raise AudioError(f"{SWITCH}={value}: must be none, public or all")
    return value


def fetch(url: str) -> bytes:
    """The bytes at a URL.

    Raises:
        AudioError: the switch does not allow it, or it cannot be fetched within the limits on size and time.

    """
    place, scheme, allowed = shown(url), url.partition(":")[0].lower(), allowed_urls()
    if scheme not in ("http", "https", "file"):
        raise AudioError(f"{scheme} URLs are not supported; use http or https, or download it", place=place)
    if allowed == "none" or (scheme == "file" and allowed != "all"):
        value = "all" if scheme == "file" else "public"
        raise AudioError(f"URLs are not opened; give the file itself, or set {SWITCH}={value}", place=place)
    try:
        data = _read_file(url) if scheme == "file" else _download(url, private=allowed == "all")
    except (urllib.error.URLError, http.client.HTTPException, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise AudioError(f"cannot be fetched ({reason}); check the address, or download it", place=place) from None
    if len(data) > MAX_BYTES:
        raise AudioError(f"is larger than {MAX_BYTES // 2**20} MiB; cut the clip", place=place)
    return data


def shown(url: str) -> str:
    """A URL for messages and logs: without user, password, query and fragment, which may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an unclosed bracket
        return "the URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]


def _read_file(url: str) -> bytes:
    with Path(urllib.request.url2pathname(urlsplit(url).path)).open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _download(url: str, *, private: bool) -> bytes:
    guard = _Guard(private=private)
    opener = urllib.request.OpenerDirector()  # without the handlers of proxies, files and FTP
    for handler in (
        _Http(guard),
        _Https(guard),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    with guard, opener.open(url, timeout=MAX_SECONDS) as response:
        parts, size = [], 0
        while size <= MAX_BYTES and (part := response.read1(2**20)):
            parts.append(part)
            size += len(part)
        announced = response.headers.get("Content-Length")
    guard.check_time()
    if size <= MAX_BYTES and announced is not None and announced.isdigit() and size < int(announced):
        raise OSError(f"the connection was closed after {size} of {announced} bytes")
    return b"".join(parts)


class _Guard:
    """Checks addresses, and ends all connections of one fetch when its time is over."""

    def __init__(self, *, private: bool) -> None:
        self._private, self._late, self._sockets = private, False, list[Any]()
        self._timer = threading.Timer(MAX_SECONDS, self._stop)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def connect(self, connection: http.client.HTTPConnection, original: Callable[[], None]) -> None:
        self.check_time()
        if not self._private:
            for *_, address in socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM):
                self._check(str(address[0]))
        original()
        self._sockets.append(connection.sock)
        if not self._private:
            self._check(connection.sock.getpeername()[0])

    def check_time(self) -> None:
        if self._late:
            raise OSError(f"it took longer than {MAX_SECONDS:g} s")

    @staticmethod
    def _check(text: str) -> None:
        address = ipaddress.ip_address(text.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if not address.is_global or address.is_multicast:
            raise OSError(f"{address} is not a public address; {SWITCH}=all allows it")

    def _stop(self) -> None:
        self._late = True
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)  # a read that waits returns at once
            except OSError:
                continue


def _connection_class(base: type[http.client.HTTPConnection], guard: _Guard) -> Any:
    class Guarded(base):  # type: ignore[misc, valid-type]
        def connect(self) -> None:
            guard.connect(self, super().connect)

    return Guarded


class _Http(urllib.request.HTTPHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._class = _connection_class(http.client.HTTPConnection, guard)

    def http_open(self, request: Any) -> Any:
        return self.do_open(self._class, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._class = _connection_class(http.client.HTTPSConnection, guard)

    def https_open(self, request: Any) -> Any:
        return self.do_open(self._class, request)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
