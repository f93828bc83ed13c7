"""How reports write numbers: in percent with one decimal, always with interval and n."""

from __future__ import annotations

from sarsteer.stats.estimate import Estimate, Score

NOTHING = "–"
"""Shown when there was nothing to count."""


def percent(share: float) -> str:
    """``0.1234`` as ``12.3``; with a minus sign (not a hyphen), and none before zero."""
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def signed(share: float) -> str:
    """As ``percent``, with a plus sign for differences."""
    text = percent(share)
    return text if text.startswith("−") or text == "0.0" else f"+{text}"


def value(estimate: Estimate, change: bool = False) -> str:
    """The number: a share in percent, a score as it is; a change has a sign."""
    return _write(estimate, estimate.value, change)


def interval(estimate: Estimate, change: bool = False) -> str:
    """The 95 % interval in brackets."""
    return f"[{_write(estimate, estimate.low, change)}, {_write(estimate, estimate.high, change)}]"


def _write(kind: Estimate, number: float, change: bool) -> str:
    if isinstance(kind, Score):
        text = f"{number:+.2f}" if change else f"{number:.2f}"
        return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")
    return signed(number) if change else percent(number)


def counted(estimate: Estimate) -> str:
    """n; and the number of items, if items have several outcomes."""
    return f"n={estimate.n}" if estimate.clusters is None else f"n={estimate.n} of {estimate.clusters} items"


def whole(estimate: Estimate, change: bool = False) -> str:
    """Value, interval and n on one line."""
    return f"{value(estimate, change)} {interval(estimate, change)} {counted(estimate)}"
