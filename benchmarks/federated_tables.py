"""The tables and the chart of docs/federated.md, from stored results: ``python -m benchmarks.federated_tables``.

Results are those of ``benchmarks.federated`` and ``benchmarks.federated_answers``. Tables are printed; the chart is
written into ``docs/images`` if there are answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.readme import COLORS, SERIES

HERE = Path(__file__).parent
IMAGES = HERE.parent / "docs" / "images"
Row = Mapping[str, Any]


def lined(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    cells = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def percent(share: Sequence[float]) -> str:
    """``41 [33–50]``."""
    return f"{100 * share[0]:.0f} [{100 * share[1]:.0f}–{100 * share[2]:.0f}]"


def gate(row: Row) -> list[str]:
    """AUROC, and the shares of harmful and safe requests that open the gate."""
    if "auroc" not in row:
        return ["none", "–", "–"]  # ``reasons`` says why
    value, low, high = row["auroc"]
    return [f"{value:.3f} [{low:.3f}–{high:.3f}]", percent(row["opens"]["harmful"]), percent(row["opens"]["safe"])]


def exactness(rows: Mapping[str, Row]) -> str:
    """Over r, n and sites."""
    found = []
    for key, row in rows.items():
        kind, *parts = key.split("/")
        if kind == "exact" and parts[0] == "pooled":
            found.append([parts[1], "pooled", "–", "–", "–", *gate(row)])
        elif kind == "exact" and len(parts) == 3:
            found.append([*parts, f"{row['angle']:.2g}°", f"{row['change']:.1e}", *gate(row)])
    return lined(
        ["pairs", "sites", "r", "largest angle", "‖Δv‖/‖v‖", "gate: AUROC", "opens, harmful %", "safe %"], found
    )


def private(rows: Mapping[str, Row]) -> str:
    """Over ε."""
    found = []
    for key, row in rows.items():
        kind, *parts = key.split("/")
        if kind != "private":
            continue
        good = [draw for draw in row["draws"] if "cosine" in draw]
        values = [parts[0], parts[1], f"{row['multiplier']:.2g}"]
        if good:
            spread = [f"{min(d[k] for d in good):.3g} to {max(d[k] for d in good):.3g}" for k in ("cosine", "change")]
            gates = sum("auroc" in draw for draw in good)
            areas = [draw["auroc"][0] for draw in good if "auroc" in draw]
            area = "–" if parts[1] == "vectors" else f"{gates} of {len(row['draws'])}"
            found.append([*values, *spread, area + (f", {min(areas):.2f} to {max(areas):.2f}" if areas else "")])
        else:
            found.append([*values, "–", "–", "–"])
    return lined(["ε", "what", "multiplier", "cos(r, r₀)", "‖Δr‖/‖r‖", "gates, AUROC"], found)


def attacked(rows: Mapping[str, Row]) -> str:
    """Each attack under each way to add up."""
    found = []
    for key, row in rows.items():
        if not key.startswith("attack/"):
            continue
        _, name, how = key.split("/")
        if "error" in row:
            found.append([name, how, "stops", "–", "–", "–", "–"])
            continue
        left = f"{'attacker' if row['attacker_left_out'] else 'nobody' if not row['honest_left_out'] else ''}"
        left += f"{' and ' if left == 'attacker' and row['honest_left_out'] else ''}"
        left += f"{row['honest_left_out']} honest" if row["honest_left_out"] else ""
        found.append([name, how, left, f"{row['cosine']:.3f}", *gate(row)])
    heads = ["one site", "sums", "left out", "cos(r, r₀)", "gate: AUROC", "opens, harmful %", "safe %"]
    return lined(heads, found)


def reasons(rows: Mapping[str, Row]) -> str:
    """Why rows have no gate, or no result."""
    found = [f"{key}: {row.get('no_gate', row.get('error'))}" for key, row in rows.items()]
    return "\n".join(line for line in found if not line.endswith(": None"))


def members(rows: Mapping[str, Row]) -> str:
    """Whether a clip is recognized in a sum."""
    found = []
    for key, row in rows.items():
        if key.startswith("members/"):
            _, n, rank, epsilon = key.split("/")
            found.append([n, rank, epsilon, f"{row['mean']:.2f}", f"{row['span']:.2f}" if "span" in row else "–"])
    return lined(["clips in the sum", "r", "ε", "AUROC from the mean", "AUROC from the span"], found)


def payload(rows: Mapping[str, Row]) -> str:
    """What a site sends."""
    found = []
    for key, row in rows.items():
        if key.startswith("payload/") and not key.startswith("payload/protocol"):
            rank = key.split("/")[1]
            measured = f"{row['message_bytes']:,}" if "message_bytes" in row else "–"
            found.append([rank, f"{row['numbers']:,}", f"{row['computed_bytes']:,}", measured])
    return lined(["r", "numbers", "8 × numbers, bytes", "message, bytes"], found)


def answers(arms: Mapping[str, Row]) -> str:
    """ASR and refusals of each arm."""
    found = []
    for name, row in arms.items():
        shares = [row[key] for key in ("asr", "rr_harmful", "rr_safe", "broken")]
        cells = [percent([one["value"], one["low"], one["high"]]) for one in shares]
        opened = [f"{row[key][0]} of {row[key][1]}" if key in row else "–" for key in ("opens_harmful", "opens_safe")]
        found.append([name, *cells, *opened])
    first = next(iter(arms.values()))
    n = [first[key]["n"] for key in ("asr", "rr_harmful", "rr_safe", "broken")]
    titles = ("ASR", "harmful refused", "safe refused", "broken")
    heads = [f"{title}<br>n={count}" for title, count in zip(titles, n, strict=True)]
    return lined(["steering", *heads, "harmful open", "safe open"], found)


def draw(arms: Mapping[str, Row], mode: str, path: Path) -> None:
    """ASR and over-refusal over ε."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    color = COLORS[mode]
    figure, axes = pyplot.subplots(
        1, 2, figsize=(8.6, 3.9), dpi=150, layout="constrained", facecolor=color["paper"], sharey=True
    )
    series = {
        "always on, as calibrated": ("ε {}, vectors: always on", "o"),
        "always on, norms of the pooled vectors": ("ε {}, vectors: always on, scaled", "s"),
        "gated": ("ε {}, gate: gated", "*"),
    }
    epsilons = sorted({float(name.split()[1].rstrip(",")) for name in arms if name.startswith("ε ")})
    titles = {"asr": "harmful requests answered (ASR), %", "rr_safe": "safe requests refused, %"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        axis.set_facecolor(color["paper"])
        axis.set_xscale("log")
        axis.grid(color=color["line"], linewidth=0.8)
        for side in axis.spines.values():
            side.set_visible(False)
        axis.tick_params(colors=color["soft"], labelsize=9, length=0, which="both")
        axis.set_title(title, color=color["ink"], fontsize=11)
        axis.set_xlabel("ε (smaller: more noise)", color=color["ink"])
        axis.set_ylim(-2, 102)
        flat = {"no defense": ":", "pooled: always on": "--", "pooled: gated": "-."}
        for name, style in flat.items():
            if name in arms:
                axis.axhline(100 * arms[name][key]["value"], linestyle=style, color=color["soft"], label=name)
        for (label, (name, marker)), shade in zip(series.items(), SERIES[mode][1:], strict=False):
            points = [(e, arms[name.format(f"{e:g}")][key]) for e in epsilons if name.format(f"{e:g}") in arms]
            if points:
                axis.errorbar(
                    [e for e, _ in points], [100 * p["value"] for _, p in points],
                    yerr=[[100 * (p["value"] - p["low"]) for _, p in points],
                          [100 * (p["high"] - p["value"]) for _, p in points]],
                    marker=marker, color=shade, label=label, linewidth=1.4, elinewidth=1, alpha=0.95,
                )  # fmt: skip
    legend = figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False
    )
    for text in legend.get_texts():
        text.set_color(color["ink"])
    figure.savefig(path, facecolor=color["paper"])
    pyplot.close(figure)


def main() -> None:
    """Print every table that has results, and draw the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", default=sorted(HERE.glob("federated_*.json")))
    arguments = parser.parse_args()
    for path in arguments.results:
        rows = json.loads(path.read_text("utf-8"))
        print(f"\n## {path.name}\n")
        if "arms" in rows:
            print(answers(rows["arms"]))
            for mode in ("light", "dark"):
                draw(rows["arms"], mode, IMAGES / f"federated-{mode}.png")
            continue
        print(rows.get("about", ""))
        for table in (exactness, members, private, attacked, payload, reasons):
            print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
