"""Explain what the ``openai`` client raised, in one line, with what to do."""

from __future__ import annotations

from typing import Any

QUOTE_LENGTH = 300
"""Most characters of a server's message that are quoted; some send whole web pages."""

REQUEST_STATUSES = (400, 413, 422)
"""Statuses about one request (too long, filtered, malformed), not about the server or the account."""


def is_about_one_request(error: Exception) -> bool:
    """Whether other requests may succeed although the ``openai`` client raised ``error`` for one."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in REQUEST_STATUSES
    return not isinstance(error, openai.APIError)  # from its parser: the response cannot be read


def explain(error: Exception, model: str, base_url: str, tries: int) -> str:
    """One line about ``error``, with the server's message unless it may quote the key."""
    import openai

    times = "1 try" if tries == 1 else f"{tries} tries"
    if isinstance(error, openai.APITimeoutError):
        return f"no answer from {base_url} in time, in {times}; increase timeout, or lower batch_size"
    if isinstance(error, openai.APIConnectionError):
        reason = _one_line(error.__cause__ or error)
        return f"{base_url} cannot be reached in {times} ({reason}); check the address, the network and the server"
    if not isinstance(error, openai.APIStatusError):
        if isinstance(error, openai.APIError):  # an error sent within a stream
            return f"the server ended the stream with an error: {_one_line(error.message)}; try again"
        return f"the response cannot be read ({_one_line(error)}); check base_url and the server"
    status, reason = error.status_code, _server_message(error)
    if status == 401:
        return f"the server refuses the API key (401); check OPENAI_API_KEY, and that it is a key for {base_url}"
    if status == 404:
        return f"the server has no model {model!r} (404: {reason}); check its name, and base_url {base_url}"
    if status == 413:
        return f"the request is too large for the server (413: {reason}); shorten the clip, or use audio_format='mp3'"
    if status == 429:
        if error.code == "insufficient_quota":
            return f"the account has no credit left (429: {reason}); add credit"
        advice = "wait, lower batch_size or the rate, or increase max_retries"
        return f"the rate limit was hit in {times} (429: {reason}); {advice}"
    if status >= 500:
        return f"the server failed in {times} ({status}: {reason}); try again later"
    return f"the server refuses the request ({status}): {reason}"


def _server_message(error: Any) -> str:
    """The server's message: OpenAI nests a ``message``, FastAPI writes a ``detail``, others send a text."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return _one_line(body or error.message)


def _one_line(value: Any) -> str:
    line = " ".join(str(value).split()).rstrip(".") or type(value).__name__
    return line if len(line) <= QUOTE_LENGTH else line[:QUOTE_LENGTH] + "…"
