"""``sarsteer attack``: defenses under attack, with the same attacks on harmless requests."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.help import Command
from sarsteer.cli.output import check_out, check_out_folder, console, note, print_json, progress_bar, quiet_transformers
from sarsteer.errors import EvaluationError, MissingExtraError
from sarsteer.files import exclusive

if TYPE_CHECKING:
    from sarsteer.evaluation.attack_rows import AttackRow


class AttackCommand(Command):
    """Lists attacks, defenses and benchmarks in ``--help``. Plug-ins are imported only then."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """What the registries contain."""
        from sarsteer.attacks import ATTACKS
        from sarsteer.cli.spec_help import spec_rows
        from sarsteer.data.benchmarks import BENCHMARKS
        from sarsteer.defenses import DEFENSES

        for title, registry in (
            ("Attacks", ATTACKS),
            ("Defenses", DEFENSES),
            ("Benchmarks (SPEC: NAME[/VARIANT][@SPLIT][:FOLDER])", BENCHMARKS),
        ):
            with formatter.section(title):
                formatter.write_dl(spec_rows(registry), col_max=24)


def attack(
    model: options.AnyModel,
    attacks: Annotated[
        list[str], typer.Option("--attack", help="Attack to run; repeatable. Listed below.", metavar="SPEC")
    ],
    benchmark: Annotated[
        list[str],
        typer.Option(
            "--benchmark",
            help="Requests to attack; repeatable. Harmless ones are attacked the same way. Listed below.",
            metavar="SPEC",
        ),
    ],
    defense: Annotated[
        list[str] | None,
        typer.Option(
            "--defense",
            help="Defense to attack; repeatable. Listed below. Default: none; with --steering also sarsteer:gate=off, "
            "and sarsteer if the file has a gate.",
            metavar="SPEC",
        ),
    ] = None,
    steering: options.SteeringFile = None,
    curves: Annotated[bool, typer.Option("--curves", help="Run each audio transform along its strength axis.")] = False,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge of the answers, or BENCHMARK=SPEC for one benchmark; repeatable. Default: the benchmark's.",
            metavar="SPEC",
        ),
    ] = None,
    limit: options.RequestLimit = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Calibration pairs, for defenses that need them; checked for overlap with the benchmarks."),
    ] = None,
    audio_root: options.AudioRoot = None,
    out: Annotated[Path, typer.Option(help="Folder for clips, logs and results.json.")] = Path("attack"),
    seed: Annotated[int, typer.Option(help="Seed of the attacks.", min=0)] = 0,
    instruction: options.TextAfterClips = None,
    max_new_tokens: options.MaxNewTokens = 256,
    batch_size: options.BatchSize = 16,
    max_wer: Annotated[
        float,
        typer.Option(
            help="Word error rate above which an attacked clip counts as misheard, against the model's own "
            "transcript of the clean clip."
        ),
    ] = 0.5,
    no_transcripts: Annotated[
        bool, typer.Option("--no-transcripts", help="Do not transcribe clips: misheard clips are not counted apart.")
    ] = False,
    abliterate: Annotated[
        bool,
        typer.Option(
            "--abliterate", help="Remove the steering file's refusal direction from the weights first, as who has them."
        ),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(help="Attack the model that an OpenAI-compatible server offers as MODEL, such as http://host/v1."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Requests that may be sent to --target in this run, retries included.", min=1)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per minute that may be sent to --target, retries included.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for an answer of --target in each try. Default: 60.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw success by strength and by budget: .png, .svg or .pdf.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    layers: options.Layers = None,
    as_json: options.Json = False,
) -> None:
    """Attack every request under every defense, and print success rates with 95 % intervals.

    Each benchmark also runs without an attack. A run that was interrupted resumes when the same command is run again.
    """
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        if sys.version_info < (3, 11):
            raise EvaluationError("sarsteer attack needs Inspect AI and thus Python 3.11 or newer") from None
        raise MissingExtraError("sarsteer attack", "eval") from None
    from sarsteer.evaluation.attack_rows import attack_rows, model_title, unreadable
    from sarsteer.evaluation.plan import parse_plan
    from sarsteer.evaluation.results import RESULTS
    from sarsteer.evaluation.run import run

    check_out_folder(out)
    if plot is not None:
        from sarsteer.figure import check_figure_path

        check_figure_path(plot)
    if markdown is not None:
        check_out(markdown)
    server = {"base_url": target, "budget": budget, "per_minute": rate, "timeout": timeout}
    model = _at_target(model, target, server)
    quiet_transformers()
    limit_wer = None if no_transcripts else max_wer
    plan = parse_plan(
        model,
        benchmark,
        defense or _default_defenses(steering),
        out,
        judges=judge or (),
        audio_root=audio_root,
        steering=steering,
        calibration=calibration,
        limit=limit,
        instruction=instruction,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        max_wer=limit_wer,
        controls=False,
        loading={
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "layers": layers,
            "trust_remote_code": trust_remote_code or None,
            **server,
        },
        command=shlex.join(["sarsteer", *sys.argv[1:]]),
        attacks=attacks,
        curves=curves,
        seed=seed,
        abliterate=abliterate,
    )
    if plot is not None:
        from sarsteer.report.attack_figure import check_drawable

        check_drawable([planned.attack for planned in plan.attacks])
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        with progress_bar() as report:
            results = run(plan, report)
        path = results.save(out / RESULTS)
    rows = attack_rows(results, limit_wer)
    if plot is not None:
        from sarsteer.report.attack_figure import plot_attacks

        plot_attacks(rows, plot, f"{model_title(results)}, judged by {results.judge['name']}")
    if markdown is not None:
        from sarsteer.files import write_text
        from sarsteer.report.attack_table import attack_markdown

        write_text(markdown, attack_markdown(results, rows))
    if as_json:
        notes = [asdict(one) for one in (*results.notes, *unreadable(rows))]
        print_json({"file": str(path), "model": dict(results.model), "rows": list(map(_data, rows)), "notes": notes})
        return
    from sarsteer.cli.attack_table import print_attack_tables

    print_attack_tables(results, rows)
    for one in (*results.notes, *unreadable(rows)):
        if one.kind not in ("misheard", "controls"):
            note(str(one))
    console.print(f"\nResults: [bold]{path}[/]", highlight=False, soft_wrap=True)


def _at_target(model: str, target: str | None, server: dict[str, Any]) -> str:
    """The model's name, as one behind an endpoint if there is a target."""
    from sarsteer.models.interface import API_PREFIX

    if target is not None:
        return model if model.startswith(API_PREFIX) else API_PREFIX + model
    limits = [name for name in ("budget", "per_minute", "timeout") if server[name] is not None]
    if limits and not model.startswith(API_PREFIX):
        names = ", ".join("--rate" if name == "per_minute" else f"--{name}" for name in limits)
        raise EvaluationError(f"{names} limits what is sent to a server; add --target URL")
    return model


def _default_defenses(steering: Path | None) -> list[str]:
    """No defense; the steering file's vectors on every request; and its gate, if it has one."""
    if steering is None:
        return ["none"]
    from sarsteer.steering.artifact import Steering

    gated = Steering.from_pretrained(steering).gate is not None
    return ["none", "sarsteer:gate=off", *(["sarsteer:gate=on"] if gated else [])]


def _data(row: AttackRow) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name != "arm"}
