"""The address of a server: checked, and without the password that it may contain.

An address is printed in errors, logged, and stored with results. The client gets a password as a header instead.
"""

from __future__ import annotations

import base64
import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

DEFAULT = "https://api.openai.com/v1"


def server_address(base_url: str | None) -> str:
    """``base_url``, else OPENAI_BASE_URL, else OpenAI's; it may contain a password."""
    return base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT


def without_password(url: str) -> str:
    """``url`` without ``user:password@``, for whatever is shown or stored."""
    if not is_web_address(url):  # its parts are unknown: show nothing that may belong to the password
        return url.rpartition("@")[2]
    return re.sub(r"^([^/]*//)[^/?#]*@", r"\1", url)


def authorization(url: str) -> str | None:
    """The ``Authorization`` header (Basic) of ``user:password@`` in a valid ``url``; None if it has none."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def is_web_address(url: str) -> bool:
    """Whether ``url`` is an http or https address with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port above 65535
        return False


def normalized(url: str) -> str:
    """An address that two spellings of one server share: no password, lower-case host, no slash at the end."""
    parts = urlsplit(without_password(url))
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path.rstrip("/"), parts.query, ""))
