"""What went wrong between us and an API, in one line with its mend."""

from __future__ import annotations

from typing import Any

LONGEST = 300
"""Characters of a server's own words that are passed on; some send whole web pages."""


REFUSED_REQUESTS = (400, 413, 422)
"""Statuses that are about one request (too long, filtered, malformed), not about the server or the account."""


def concerns_one_request(error: Exception) -> bool:
    """Whether other requests may fare better than the one for which the ``openai`` client raised this."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in REFUSED_REQUESTS
    return not isinstance(error, openai.APIError)  # what its parser raises: a response that cannot be read


def explain(error: Exception, model: str, base_url: str, tries: int) -> str:
    """One line for what the ``openai`` client raised, with the server's words, save where they may quote the key."""
    import openai

    times = "1 try" if tries == 1 else f"{tries} tries"
    if isinstance(error, openai.APITimeoutError):
        return f"no answer from {base_url} in time, in {times}; raise timeout, or lower batch_size"
    if isinstance(error, openai.APIConnectionError):
        reason = _one_line(error.__cause__ or error)
        return f"{base_url} cannot be reached in {times} ({reason}); check the address, the network and the server"
    if not isinstance(error, openai.APIStatusError):
        if isinstance(error, openai.APIError):  # an error sent within a stream
            return f"the server broke off: {_one_line(error.message)}; try again"
        return f"the response cannot be read ({_one_line(error)}); check base_url and the server"
    status, said = error.status_code, _said(error)
    if status == 401:
        return f"the server refuses the API key (401); check OPENAI_API_KEY, and that the key is one for {base_url}"
    if status == 404:
        return f"the server knows no model {model!r} (404: {said}); check its name, and base_url {base_url}"
    if status == 413:
        return (
            f"the request is too large for the server (413: {said}); cut or split the clip, or use audio_format='mp3'"
        )
    if status == 429:
        if error.code == "insufficient_quota":
            return f"the account has no credit left (429: {said}); top it up"
        return f"the rate limit holds after {times} (429: {said}); wait, lower batch_size, or raise max_retries"
    if status >= 500:
        return f"the server failed in {times} ({status}: {said}); try again later"
    return f"the server refuses the request ({status}): {said}"


def _said(error: Any) -> str:
    """The server's own words: OpenAI nests a message, FastAPI writes a detail, others send a text."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return _one_line(body or error.message)


def _one_line(value: Any) -> str:
    line = " ".join(str(value).split()).rstrip(".") or type(value).__name__
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"
