"""``sarsteer layers``: which layers a steering works through."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sarsteer.cli.output import console, errors, print_json, progress_bar, quiet_transformers
from sarsteer.errors import SarsteerError, TuningError

if TYPE_CHECKING:
    from sarsteer.data.pairs import Pairs
    from sarsteer.steering.artifact import Steering
    from sarsteer.tuning.layer_study import LayerStudy


def layers(
    model: Annotated[str, typer.Argument(help="sarsteer-tiny, a folder, or a name on the Hugging Face Hub.")],
    steering: Annotated[Path, typer.Option("--steering", help="Steering file of this model.")],
    pairs: Annotated[
        str, typer.Option("--pairs", help="Pairs that it was not calibrated on: a manifest, or a folder.")
    ],
    split: Annotated[str, typer.Option(help="Of a folder or of sarsteer-tiny: test or calibration.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Use only the first so many pairs.", min=1)] = 50,
    alpha: Annotated[float | None, typer.Option(help="Strength; the steering file's own.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Safe components to ablate; its own.", min=0)] = None,
    lambda_: Annotated[float | None, typer.Option("--lambda", help="Ablation coefficient; its own.")] = None,
    judge: Annotated[str | None, typer.Option(help="Tells the model's own refusals; what fits by default.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the picture as PNG, SVG or PDF.")] = None,
    batch_size: Annotated[int, typer.Option(help="Requests a forward; lower it when memory runs out.", min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; a GPU where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the checkpoint's own.")] = None,
    revision: Annotated[str | None, typer.Option(help="The model's branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the checkpoint's own Python code.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Steer one layer alone, and all but one, and estimate from first tokens what that does.

    A file that is gated by default is studied with its gate as it is, in the layers above it.
    """
    if plot is not None:
        from sarsteer.tuning.plots import check_picture

        check_picture(plot)
    from sarsteer.data.pairs import load_pairs
    from sarsteer.judges import make_judge
    from sarsteer.models.loading import EMBEDDED, load_model
    from sarsteer.steering.artifact import Steering

    made = make_judge(judge or ("embedded" if model == EMBEDDED else "keywords"))
    artifact = Steering.load(steering)
    own_alpha, own_k, own_lambda = artifact.defaults
    chosen = load_pairs(pairs, split)[:limit]
    if shared := _calibrated_on(artifact, chosen, pairs):
        errors.print(
            f"[yellow]note:[/] the steering was calibrated on {shared} of these {len(chosen)} pairs, and does better "
            "on them than on others; take others",
            highlight=False,
            soft_wrap=True,
        )
    quiet_transformers()
    from sarsteer.tuning.layer_study import study_layers
    from sarsteer.tuning.setting import Setting, own_gate
    from sarsteer.tuning.space import Space
    from sarsteer.tuning.surrogate import prepare

    loaded = load_model(model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    loaded.check_steerable()
    artifact.check_model(loaded.fingerprint)
    gate = artifact.choose_gate()
    setting = Setting(
        gate_layer=gate.layer if gate else None,
        alpha=own_alpha if alpha is None else alpha,
        k=own_k if k is None else k,
        lambda_=own_lambda if lambda_ is None else lambda_,
        layer_weights=artifact.default_layer_weights,
    )
    with (
        progress_bar() as report,
        prepare(loaded, artifact, chosen, made, batch_size=batch_size, report=report) as surrogate,
    ):
        if not surrogate.tokens.usable:
            raise TuningError(
                f"the refusal prompt hardly changes how answers begin (by {surrogate.tokens.change:.0%}): first tokens "
                "tell nothing of this model's refusals"
            )
        study = study_layers(
            surrogate, Space(artifact, gates=own_gate(artifact)), setting, lambda d, n: report("Layer by layer", d, n)
        )
    if plot is not None:
        from sarsteer.tuning.plots import plot_layer_study

        plot_layer_study(study, plot, f"{model}, {setting}: {len(chosen)} pairs")
    if as_json:
        print_json(asdict(study))
        return
    _print(study, len(chosen))
    if plot is not None:
        console.print(f"picture: {plot}", highlight=False)


def _calibrated_on(steering: Steering, chosen: Pairs, source: str) -> int:
    """How many of the chosen pairs it was calibrated on, where ``source`` has those: a file knows but their digest."""
    from sarsteer.data.overlap import shared_items
    from sarsteer.data.pairs import SPLITS, load_pairs

    for split in SPLITS:
        try:
            known = load_pairs(source, split)[: steering.metadata.get("pairs")]
            same = known.digest == steering.metadata.get("pairs_digest")
        except SarsteerError:  # no such split, or a bad one: it is not what was asked for
            continue
        if same:
            shared = shared_items([*chosen.harmful, *chosen.safe], [*known.harmful, *known.safe])
            return len({overlap.first.pair for overlap in shared})
    return 0


def _print(study: LayerStudy, n: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("steered", "α", "harmful\nrefused", "safe\nrefused", "broken", "all but it:\nharmful refused",
                  "safe\nrefused", "broken"):  # fmt: skip
        table.add_column(title, justify="right")

    def cells(scores: object) -> list[str]:
        if scores is None:
            return ["", "", ""]
        asr, over, broken = vars(scores).values()
        return [f"{100 * value:.0f}" for value in (1 - asr, over, broken)]

    table.add_row("all", f"{study.setting.alpha:g}", *cells(study.whole), *cells(None))
    for row in study.rows:
        table.add_row(f"layer {row.layer}", f"{row.alone_alpha:.3g}", *cells(row.alone), *cells(row.without))
    console.print(table)
    console.print(
        f"[dim]Estimates in %, from first tokens on {n} pairs. A layer alone has the push of all layers together.[/]",
        highlight=False,
    )
