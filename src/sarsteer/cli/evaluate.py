"""``sarsteer evaluate``: benchmarks under defenses, judged, with 95 % intervals."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.help import Command
from sarsteer.cli.limits import FailIf, as_data, end_with
from sarsteer.cli.output import check_out_folder, console, print_json, progress_bar, quiet_transformers
from sarsteer.errors import EvaluationError, MissingExtraError
from sarsteer.files import exclusive

if TYPE_CHECKING:
    from sarsteer.evaluation.results import Evaluation


class EvaluateCommand(Command):
    """Lists defenses, judges and benchmarks in ``--help``. Plug-ins are imported only then."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """What the registries contain."""
        from sarsteer.cli.spec_help import spec_rows
        from sarsteer.data.benchmarks import BENCHMARKS
        from sarsteer.defenses import DEFENSES
        from sarsteer.judges import JUDGES

        for title, registry in (
            ("Defenses", DEFENSES),
            ("Judges", JUDGES),
            ("Benchmarks (SPEC: NAME[/VARIANT][@SPLIT][:FOLDER])", BENCHMARKS),
        ):
            with formatter.section(title):
                formatter.write_dl(spec_rows(registry), col_max=24)


def evaluate(
    model: options.AnyModel,
    benchmark: Annotated[
        list[str], typer.Option("--benchmark", help="Benchmark to run; repeatable. Listed below.", metavar="SPEC")
    ],
    defense: Annotated[
        list[str] | None,
        typer.Option(
            "--defense",
            help="Defense to compare; repeatable. Listed below. Default: none, and sarsteer with --steering.",
            metavar="SPEC",
        ),
    ] = None,
    steering: options.SteeringFile = None,
    alpha: options.Alpha = None,
    k: options.K = None,
    lambda_: options.Lambda = None,
    alpha_sweep: Annotated[
        str | None, typer.Option(help="More values of alpha for steered defenses, such as 0.05,0.1.", metavar="ALPHAS")
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="Add controls of the first steered defense: random directions of the same norm, its vectors reversed, "
            "and with --calibration shuffled labels.",
        ),
    ] = True,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge of the answers, or BENCHMARK=SPEC for one benchmark; repeatable. Listed below. air-bench "
            "scores AIR-Bench beside another judge. Default: embedded for sarsteer-tiny, keywords (crude) otherwise.",
            metavar="SPEC",
        ),
    ] = None,
    limit: options.RequestLimit = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Calibration pairs. h2s and c2r need them. They are checked for overlap with the benchmarks."
        ),
    ] = None,
    audio_root: options.AudioRoot = None,
    out: Annotated[Path, typer.Option(help="Folder for logs and results.json.")] = Path("evaluation"),
    instruction: options.TextAfterClips = None,
    max_new_tokens: options.MaxNewTokens = 256,
    batch_size: options.BatchSize = 16,
    max_wer: Annotated[
        float | None,
        typer.Option(
            help="Word error rate above which an altered clip counts as misheard. Adds rates without those clips."
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    layers: options.Layers = None,
    fail_if: FailIf = None,
    as_json: options.Json = False,
) -> None:
    """Run every request under every defense, judge the answers, and print rates with 95 % intervals.

    A run that was interrupted resumes when the same command is run again. --fail-if 'over_refusal>5' is checked for
    every defense except none and controls.
    """
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        if sys.version_info < (3, 11):
            raise EvaluationError("sarsteer evaluate needs Inspect AI and thus Python 3.11 or newer") from None
        raise MissingExtraError("sarsteer evaluate", "eval") from None
    from sarsteer.evaluation.limits import Limit, check_limits
    from sarsteer.evaluation.plan import parse_plan
    from sarsteer.evaluation.results import RESULTS
    from sarsteer.evaluation.run import run
    from sarsteer.steering.strength import Strength

    limits = [Limit.parse(text) for text in fail_if or ()]
    check_out_folder(out)
    if steering is None and any(value is not None for value in (alpha, k, lambda_)):
        raise EvaluationError("--alpha, --k and --lambda need --steering FILE; leave them out to evaluate undefended")
    quiet_transformers()
    plan = parse_plan(
        model,
        benchmark,
        defense or (["none", "sarsteer"] if steering is not None else ["none"]),
        out,
        judges=judge or (),
        audio_root=audio_root,
        alpha_sweep=_numbers(alpha_sweep),
        steering=steering,
        calibration=calibration,
        strength=Strength(alpha, k, lambda_),
        limit=limit,
        instruction=instruction,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        max_wer=max_wer,
        controls=controls,
        loading={
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "layers": layers,
            "trust_remote_code": trust_remote_code or None,
        },
        command=shlex.join(["sarsteer", *sys.argv[1:]]),
    )
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        with progress_bar() as report:
            results = run(plan, report)
        path = results.save(out / RESULTS)
    checks = check_limits(results, limits)
    if as_json:
        print_json({"file": str(path), **_json(results), "limits": as_data(checks)})
        end_with(checks)
        return
    from sarsteer.cli.evaluate_table import print_tables

    print_tables(results)
    console.print(
        f"\nResults: [bold]{path}[/]; to read and play every request: inspect view --log-dir {out / 'logs'}",
        highlight=False,
        soft_wrap=True,
    )
    end_with(checks)


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise EvaluationError(f"--alpha-sweep takes finite numbers separated by commas, such as 0.05,0.1, not {text!r}")
    return numbers


def _json(results: Evaluation) -> dict[str, Any]:
    return {
        "model": dict(results.model),
        "judge": dict(results.judge),
        "arms": [
            {
                "benchmark": arm.benchmark,
                "defense": arm.defense,
                "steering": arm.steering,
                "control_of": arm.control_of,
                "settings": dict(arm.settings),
                "summary": asdict(arm.summary),
                "log": arm.log,
            }
            for arm in results.arms
        ],
        "curve": [asdict(point) for point in results.curve],
        "notes": [asdict(note) for note in results.notes],
    }
