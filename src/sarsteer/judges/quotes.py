"""Put what is judged into a prompt so that it cannot end its own quotation and speak to the judge."""

from __future__ import annotations

import hashlib


def quoted(**passages: str) -> str:
    """Each passage between tags that hold a mark which no passage contains: ``<answer-1f3a>`` … ``</answer-1f3a>``.

    The mark follows from the passages, so that the same item is always asked in the same words.
    """
    mark = hashlib.sha256("\0".join(passages.values()).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return "\n\n".join(f"<{name}-{mark}>\n{text}\n</{name}-{mark}>" for name, text in passages.items())
