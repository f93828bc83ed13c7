"""Quote the judged texts in a prompt so that they cannot close the quotation and address the judge."""

from __future__ import annotations

import hashlib


def quoted(**passages: str) -> str:
    """Each passage between tags with a mark that an answer cannot predict: ``<answer-1f3a>`` … ``</answer-1f3a>``.

    The mark is a digest of the passages, so the same item always gives the same prompt.
    """
    mark = hashlib.sha256("\0".join(passages.values()).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return "\n\n".join(f"<{name}-{mark}>\n{text}\n</{name}-{mark}>" for name, text in passages.items())
