"""``sarsteer layers``: estimate the effect of steering each decoder layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sarsteer.cli import options
from sarsteer.cli.output import console, note, print_json, progress_bar, quiet_transformers
from sarsteer.cli.tables import print_named
from sarsteer.errors import SarsteerError, TuningError

if TYPE_CHECKING:
    from sarsteer.data.pairs import Pairs
    from sarsteer.steering.artifact import Steering
    from sarsteer.tuning.layer_study import LayerStudy


def layers(
    model: options.Model,
    steering: Annotated[Path, typer.Option("--steering", help="Steering file of this model.")],
    pairs: Annotated[
        str, typer.Option("--pairs", help="Pairs that the file was not calibrated on: a manifest or a folder.")
    ],
    split: Annotated[
        str, typer.Option(help="Split of a folder or of a shipped set: test, calibration, or tuning of sarsteer-pairs.")
    ] = "test",
    voices: options.Voices = None,
    audio_root: options.AudioRoot = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N pairs.", min=1, metavar="N")] = 50,
    alpha: options.Alpha = None,
    k: options.K = None,
    lambda_: options.Lambda = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Judge that detects refusals. Default: embedded for the toy, else keywords."),
    ] = None,
    plot: options.Plot = None,
    batch_size: options.BatchSize = 16,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Estimate the effect of each decoder layer: steer it alone, and all layers except it, and compare first tokens.

    If the file is gated by default, its gate is used, and only the layers above the gate are steered.
    """
    if plot is not None:
        from sarsteer.figure import check_figure_path

        check_figure_path(plot)
    from sarsteer import tiny
    from sarsteer.data.pairs import load_pairs
    from sarsteer.judges import parse_judge
    from sarsteer.models.loading import load_model
    from sarsteer.steering.artifact import Steering

    made = parse_judge(judge or ("embedded" if model == tiny.NAME else "keywords"))
    made.load()
    artifact = Steering.load(steering)
    spoken = options.voice_list(voices, pairs)
    chosen = load_pairs(pairs, split, voices=spoken, audio_root=audio_root, limit=limit)
    if shared := _calibrated_on(artifact, chosen, pairs, spoken, audio_root):
        note(
            f"the steering was calibrated on {shared} of these {len(chosen)} pairs, and these rates are better than on "
            "new pairs; use other pairs"
        )
    quiet_transformers()
    from sarsteer.steering.strength import Strength
    from sarsteer.tuning.configuration import Configuration, own_gate
    from sarsteer.tuning.layer_study import study_layers
    from sarsteer.tuning.space import Space
    from sarsteer.tuning.surrogate import prepare

    loaded = load_model(model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    loaded.check_steerable()
    artifact.check_model(loaded.fingerprint)
    configuration = Configuration.of(artifact.resolve(Strength(alpha, k, lambda_)))
    with (
        progress_bar() as report,
        prepare(loaded, artifact, chosen, made, batch_size=batch_size, report=report) as surrogate,
    ):
        if not surrogate.tokens.usable:
            raise TuningError(
                f"the refusal prompt hardly changes the first tokens of answers ({surrogate.tokens.change:.0%}), so "
                "they do not show this model's refusals; use sarsteer evaluate instead"
            )
        space = Space(artifact, gates=own_gate(artifact))
        study = study_layers(surrogate, space, configuration, lambda d, n: report("Layer by layer", d, n))
    if plot is not None:
        from sarsteer.tuning.plots import plot_layer_study

        plot_layer_study(study, plot, f"{model}, {configuration}: {len(chosen)} pairs")
    if as_json:
        print_json(study.to_json())
        return
    _print(study, len(chosen))
    if plot is not None:
        console.print(f"picture: {plot}", highlight=False, soft_wrap=True)


def _calibrated_on(
    steering: Steering, chosen: Pairs, source: str, voices: list[str] | None, audio_root: Path | None
) -> int:
    """How many of the chosen pairs it was calibrated on: the file stores only a digest, ``source`` has the pairs."""
    from sarsteer.data.overlap import shared_items
    from sarsteer.data.pairs import SPLITS, load_pairs

    for split in SPLITS:
        try:
            n = steering.metadata.get("pairs")
            known = load_pairs(source, split, voices=voices, audio_root=audio_root, limit=n)
            same = known.digest == steering.metadata.get("pairs_digest")
        except SarsteerError:  # this split is missing or invalid, and was not requested
            continue
        if same:
            shared = shared_items([*chosen.harmful, *chosen.safe], [*known.harmful, *known.safe])
            return len({overlap.first.pair for overlap in shared})
    return 0


def _print(study: LayerStudy, n: int) -> None:
    def cells(scores: object) -> list[str]:
        if scores is None:
            return ["", "", ""]
        asr, over, broken = vars(scores).values()
        return [f"{100 * value:.0f}" for value in (1 - asr, over, broken)]

    rows = [("all", [f"{study.configuration.strength.alpha:g}", *cells(study.whole), *cells(None)])]
    rows += [(str(row.layer), [f"{row.alone_alpha:.3g}", *cells(row.alone), *cells(row.without)]) for row in study.rows]
    print_named("layer", ("α", "alone:\nharmful", "safe", "broken", "others:\nharmful", "safe", "broken"), rows)
    console.print(
        f"[dim]Refused harmful and safe requests, and broken answers, in %: estimates from first tokens on {n} pairs. "
        "Others: all layers but this one. A single layer gets the push of all layers together.[/]",
        highlight=False,
    )
