"""How numbers are written: in per cent, with one decimal, never without their interval and n."""

from __future__ import annotations

from sarsteer.stats.estimate import Estimate, Score

NOTHING = "–"
"""Stands where there was nothing to count."""


def percent(share: float) -> str:
    """``0.1234`` as ``12.3``; with a true minus, and no minus before zero."""
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def signed(share: float) -> str:
    """The same with its sign, for differences."""
    text = percent(share)
    return text if text.startswith("−") or text == "0.0" else f"+{text}"


def value(estimate: Estimate, change: bool = False) -> str:
    """The number alone: a share in per cent, a score as it is; with its sign where it is a change."""
    return _write(estimate, estimate.value, change)


def interval(estimate: Estimate, change: bool = False) -> str:
    """Its 95 % interval in brackets."""
    return f"[{_write(estimate, estimate.low, change)}, {_write(estimate, estimate.high, change)}]"


def _write(kind: Estimate, number: float, change: bool) -> str:
    if isinstance(kind, Score):
        text = f"{number:+.2f}" if change else f"{number:.2f}"
        return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")
    return signed(number) if change else percent(number)


def counted(estimate: Estimate) -> str:
    """What is behind it; where items have several outcomes, how many items."""
    return f"n={estimate.n}" if estimate.clusters is None else f"n={estimate.n} of {estimate.clusters} items"


def whole(estimate: Estimate, change: bool = False) -> str:
    """Value, interval and n on one line."""
    return f"{value(estimate, change)} {interval(estimate, change)} {counted(estimate)}"
