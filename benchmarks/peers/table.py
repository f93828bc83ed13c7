"""The results as Markdown, written into ``docs/benchmarks.md`` between two markers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- peers -->", "<!-- end of peers -->"
MISSING = "–"


def write(results: dict[str, Any]) -> None:
    """Put the tables into the docs."""
    text = DOCS.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    DOCS.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")


def markdown(results: dict[str, Any]) -> str:
    """One table per model, then what was not measured and why."""
    parts = [_model(name, results[name]) for name in ("toy", "100M") if results.get(name, {}).get("agreed")]
    missing = [*results.get("failed", {}).items(), *results.get("not_measured", {}).items()]
    if parts:
        parts.append("Bold: significantly more than sarsteer's in the same rounds; italics: significantly less.")
    parts.append("\n".join(["Not measured:", "", *(f"- **{name}**: {reason}." for name, reason in missing)]))
    return "\n\n".join(parts)


def _model(name: str, found: dict[str, Any]) -> str:
    peers = [peer for peer in found["agreed"] if peer in found.get("decode, batch 1", {})]
    lines = [
        f"**{'sarsteer-tiny (its language model)' if name == 'toy' else 'random Qwen2 of 104M'}**",
        "",
        f"| | {' | '.join(peers)} |",
        "|---|" + "---|" * len(peers),
    ]

    def row(title: str, cell: Any) -> None:
        lines.append(f"| {title} | {' | '.join(cell(peer) for peer in peers)} |")

    for what in ("decode", "prefill"):
        for batch in (1, 8, 32):
            figures = found.get(f"{what}, batch {batch}", {})
            row(f"{what}, batch {batch}", lambda p, f=figures: _marked(f.get(p, {})))
    calibration = found.get("calibrate", {})
    row(
        "calibration, ms per pair",
        lambda p: f"{calibration[p]['ms_per_pair']:.1f}" if "ms_per_pair" in calibration.get(p, {}) else MISSING,
    )
    row("calibration / sarsteer's", lambda p: _ratio(calibration.get(p, {}).get("over_sarsteer")))
    row("attach, ms", lambda p: f"{1e3 * found['agreed'][p]['attach'][0]:.1f}")
    memory = found.get("memory", {})
    row(
        "peak memory, MiB",
        lambda p: f"{memory[p]['steered'] / 2**20:.0f}" if "steered" in memory.get(p, {}) else MISSING,
    )
    start = found.get("start", {})
    row("import beyond torch and transformers, s", lambda p: f"{start[p]['library']:.2f}" if p in start else MISSING)
    row("steered positions", lambda p: found["agreed"][p]["positions"])
    row("transformers", lambda p: found["agreed"][p]["versions"]["transformers"])
    return "\n".join(lines)


def _marked(figures: dict[str, Any]) -> str:
    """Steered / plain, bold if it is significantly above sarsteer's in the same rounds, in italics if below."""
    text = _ratio(figures.get("steered_over_plain"))
    low, high = figures.get("overhead_over_sarsteer", {}).get("interval", [1.0, 1.0])
    return f"**{text}**" if low > 1 else f"*{text}*" if high < 1 else text


def _ratio(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return MISSING
    low, high = figure["interval"]
    return f"{figure['ratio']:.3f} [{low:.3f}, {high:.3f}]"
