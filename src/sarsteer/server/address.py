"""The address that a server listens on."""

from __future__ import annotations

import ipaddress
import socket

from sarsteer.errors import SarsteerError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 picks a free one.

    Raises:
        SarsteerError: the address is not this machine's, or the port is in use.

    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SarsteerError(
            f"cannot listen on {host} port {port} ({reason}); choose another one with --host and --port"
        ) from None


def address_of(host: str, listener: socket.socket) -> str:
    """The URL of a server that listens there."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
