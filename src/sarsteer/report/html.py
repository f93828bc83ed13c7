"""The page: one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sarsteer.evaluation.results import Arm, Evaluation
from sarsteer.report.category_chart import category_chart
from sarsteer.report.clips import Clips
from sarsteer.report.environment import asset, environment
from sarsteer.report.layer_chart import norm_chart, strength_chart
from sarsteer.report.redaction import LEFT_OUT, is_sensitive, sensitive
from sarsteer.report.style import page_style
from sarsteer.report.table import METRICS, Block, blocks
from sarsteer.report.tradeoff import tradeoff, whole_curve
from sarsteer.report.transcripts import transcripts

SHOWN = 20
FOLDED = 12
"""With more categories than this, the charts of a benchmark start folded."""


@dataclass(frozen=True)
class Section:
    """A section that a caller puts before the results.

    Attributes:
        id: of its element.
        title: its heading.
        content: HTML.

    """

    id: str
    title: str
    content: Markup


def html_page(
    evaluation: Evaluation,
    folder: Path,
    embed_audio: bool = True,
    shown: int = SHOWN,
    sections: Sequence[Section] = (),
    compress_audio: bool = False,
) -> str:
    """The report of ``evaluation``.

    Args:
        evaluation: the results.
        folder: of the results; relative paths of clips may start there.
        embed_audio: put the clips into the page.
        shown: requests of a benchmark to show before "show more".
        sections: go before the results.
        compress_audio: put WAV clips into the page as MP3.

    """
    style, script = page_style(), asset("report.js")
    series = {name: i for i, name in enumerate(dict.fromkeys(_defenses(evaluation)))}
    clips = Clips(folder, embed_audio, compress_audio)
    text = (
        environment("sarsteer.report")
        .get_template("report.html")
        .render(
            evaluation=evaluation,
            sections=sections,
            blocks=blocks(evaluation),
            tables=_tables(blocks(evaluation)),
            metrics=METRICS,
            sensitive=sensitive(evaluation),
            left_out=sum(a.answer == LEFT_OUT and is_sensitive(a) for arm in evaluation.arms for a in arm.answers),
            panels=[_panel(name, arms, evaluation, series) for name, arms in _benchmarks(evaluation).items()],
            categories=[_categories(name, arms, series) for name, arms in _benchmarks(evaluation).items()],
            settings=[_settings(name, arms) for name, arms in _benchmarks(evaluation).items()],
            folded=FOLDED,
            norms=norm_chart(evaluation.layers),
            strengths=strength_chart(evaluation.layers),
            layer_keys=list(evaluation.layers[0]) if evaluation.layers else [],
            answers=_json({"shown": shown, "benchmarks": transcripts(evaluation, clips)}),
            clips=[Markup(uri) for uri in clips.uris],  # base64: nothing to escape
            clips_left_out=clips.left_out if embed_audio else 0,
            setting=_setting,
            style=style,
            script=script,
            policy=_policy(style, script),
        )
    )
    return text.encode("utf-8", "replace").decode()  # an answer may contain half a surrogate pair


def _tables(all_blocks: Sequence[Block]) -> list[list[tuple[int, Block]]]:
    """Blocks with the same columns share a table; each block has its number."""
    kinds: dict[Any, list[tuple[int, Block]]] = {}
    for number, block in enumerate(all_blocks, 1):
        kinds.setdefault(block.metrics, []).append((number, block))
    return list(kinds.values())


def _policy(style: str, script: str) -> str:
    """The browser may run only this script and this style. Markup in an answer would not run even if it got through."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {digest(style)}; script-src {digest(script)}; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> Markup:
    """JSON that cannot end its script element or be read as markup."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    """``value`` with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _setting(value: Any) -> str:
    """A setting, as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _defenses(evaluation: Evaluation) -> list[str]:
    return [arm.defense for arm in evaluation.arms] + [point.defense for point in evaluation.curve]


def _benchmarks(evaluation: Evaluation) -> dict[str, list[Arm]]:
    grouped: dict[str, list[Arm]] = {}
    for arm in evaluation.arms:
        grouped.setdefault(arm.benchmark, []).append(arm)
    return grouped


def _panel(name: str, arms: Sequence[Arm], evaluation: Evaluation, series: Mapping[str, int]) -> dict[str, Any]:
    curve = [point for point in evaluation.curve if point.benchmark == name]
    return {"benchmark": name, "picture": tradeoff(name, arms, curve, series), "curve": whole_curve(arms, curve)}


def _categories(name: str, arms: Sequence[Arm], series: Mapping[str, int]) -> dict[str, Any]:
    names = dict.fromkeys(category for arm in arms for category in arm.summary.categories)
    rows = []
    for category in names:
        here = [(arm, arm.summary.categories.get(category)) for arm in arms]
        rates = [(arm.defense, series[arm.defense], None if c is None else c.asr) for arm, c in here]
        if any(rate is not None for _, _, rate in rates):
            rows.append({"name": category, "picture": category_chart(category, rates)})
    return {"benchmark": name, "rows": rows}


def _settings(name: str, arms: Sequence[Arm]) -> dict[str, Any]:
    """The settings that all arms share, and those that differ: the table compares the second."""
    everything = [
        {**arm.settings, **{key: value for key, value in (("steering", arm.steering), ("log", arm.log)) if value}}
        for arm in arms
    ]
    keys = list(dict.fromkeys(key for settings in everything for key in settings))
    same = [key for key in keys if all(key in s and s[key] == everything[0].get(key) for s in everything)]
    return {
        "benchmark": name,
        "defenses": [arm.defense for arm in arms],
        "same": {key: everything[0][key] for key in same},
        "different": {key: [s.get(key) for s in everything] for key in keys if key not in same},
    }
