"""``sarsteer reproduce``: the paper's table, ablation and sensitivity, or a list of what they need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.output import check_out_folder, console, errors, print_json, progress_bar, quiet_transformers
from sarsteer.errors import EvaluationError, did_you_mean

if TYPE_CHECKING:
    from sarsteer.reproduction.plan import Plan, Setup
    from sarsteer.reproduction.requirements import Missing, Requirements


def reproduce(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run the same grid on the embedded toy model. Needs nothing else.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="table2, ablation or sensitivity; repeatable. Default: all.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="qwen2-audio, kimi-audio, qwen2.5-omni, qwen3-omni, voxtral-mini, midashenglm, a folder or a Hub "
            "name; repeatable. Default: qwen2-audio and kimi-audio.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="BENCHMARK=FOLDER or BENCHMARK=MANIFEST.jsonl; once per benchmark."),
    ] = None,
    without: Annotated[list[str] | None, typer.Option("--without", help="Benchmark to leave out; repeatable.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Calibration pairs. Default: those in the FigStep folder.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Number of calibration pairs to use.", min=2)] = 100,
    judge: Annotated[str | None, typer.Option(help="Judge of refusals. Default: SORRY-Bench's.")] = None,
    judge_prompts: Annotated[Path | None, typer.Option(help="SORRY-Bench's judge-prompt file.")] = None,
    air_judge: Annotated[str | None, typer.Option(help="Judge of AIR-Bench: air-bench:openai/NAME.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Maximum number of requests per benchmark, for a quick check.", min=1)
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="Add controls to the table: random directions, reversed vectors, shuffled labels.",
        ),
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for all output.")] = Path("reproduction"),
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Maximum length of an answer, in tokens. Default: 256; 32 for the toy.", min=1)
    ] = None,
    batch_size: options.BatchSize = 16,
    device: Annotated[str | None, typer.Option(help="Device, such as cuda:0. cpu takes weeks.")] = None,
    check: Annotated[bool, typer.Option("--check", help="List what is missing and what would run, then stop.")] = False,
    as_json: options.Json = False,
) -> None:
    """Run the paper's table, ablation and sensitivity with the real checkpoints and data, and write one report.

    If checkpoints, data, judges or memory are missing, the command lists all of them and how to get them, and exits
    with 2 before any work. With --embedded the same grid runs on the toy model in the package. Run the command again
    to resume a stopped run; parts can run one by one into the same folder.
    """
    from sarsteer.reproduction.plan import PARTS, make_plan
    from sarsteer.reproduction.requirements import JUDGE, Requirements

    quiet_transformers()
    parts = tuple(dict.fromkeys(only or PARTS))
    check_out_folder(out)
    required = None
    if embedded:
        given = (model, data, without, calibration, judge, judge_prompts, air_judge)
        if any(value is not None for value in given):
            raise EvaluationError("--embedded has its model, data and judge; remove those options")
        setup = _embedded(pairs, limit, max_new_tokens or 32, controls)
    else:
        prompts = f",prompts={judge_prompts}" if judge_prompts is not None else ""
        required = Requirements(
            models=_models(model),
            benchmarks=_columns(without),
            data=_places(data),
            calibration=calibration,
            judge=(judge or f"sorry-bench:{JUDGE}") + prompts,
            air_judge=air_judge,
            device=device,
        )
        setup = _real(required, pairs, limit, max_new_tokens or 256, controls)
    plan = make_plan(setup, parts)
    missing = _missing(required)
    if missing or check:
        _print_check(missing, plan, as_json, check)
        raise typer.Exit(2 if missing else 0)
    _run(plan, out, batch_size, _loading(required, device), as_json)


def _run(plan: Plan, out: Path, batch_size: int, loading: dict[str, dict[str, Any]], as_json: bool) -> None:
    from sarsteer.reproduction.plan_file import FILE, save_plan
    from sarsteer.reproduction.report import write_report
    from sarsteer.reproduction.run import run_plan

    whole = save_plan(plan, out)
    with progress_bar() as progress:
        run_plan(plan, out, batch_size=batch_size, loading=loading, progress=progress)
    page, table = write_report(whole, out)
    if as_json:
        files = {"report": str(page), "markdown": str(table), "plan": str(out / FILE)}
        print_json({**files, "steps": [f"{step.model}/{step.name}" for step in plan.steps], "arms": plan.arms})
        return
    print(table.read_text(encoding="utf-8"))
    console.print(f"Report with charts: [bold]{page}[/]", highlight=False, soft_wrap=True)


def _embedded(pairs: int, limit: int | None, max_new_tokens: int, controls: bool) -> Setup:
    from sarsteer import tiny
    from sarsteer.reproduction.plan import Setup

    models, benchmarks = {tiny.NAME: tiny.NAME}, {"embedded": "embedded"}
    return Setup(models, benchmarks, tiny.NAME, pairs, (), limit, max_new_tokens, controls=controls)


def _real(required: Requirements, pairs: int, limit: int | None, max_new_tokens: int, controls: bool) -> Setup:
    from sarsteer import tiny
    from sarsteer.reproduction.paper_models import MODELS
    from sarsteer.reproduction.plan import Setup
    from sarsteer.reproduction.requirements import calibration_of, spec_of

    return Setup(
        models={_short(key): MODELS[key].checkpoint if key in MODELS else key for key in required.models},
        benchmarks={name: spec_of(name, required.data.get(name, "")) for name in required.benchmarks},
        calibration=calibration_of(required) or "",
        pairs=pairs,
        judges=(required.judge, *([required.air_judge] if required.air_judge else [])),
        limit=limit,
        max_new_tokens=max_new_tokens,
        dtype=None if set(required.models) == {tiny.NAME} else "bfloat16",
        controls=controls,
    )


def _loading(required: Requirements | None, device: str | None) -> dict[str, dict[str, Any]]:
    from sarsteer import tiny
    from sarsteer.reproduction.paper_models import MODELS

    names = [tiny.NAME] if required is None else list(required.models)
    remote = {name: True for name in names if name in MODELS and MODELS[name].remote_code}
    return {_short(name): {"device": device, "trust_remote_code": remote.get(name)} for name in names}


def _models(given: list[str] | None) -> tuple[str, ...]:
    from sarsteer.reproduction.paper_models import DEFAULT_MODELS

    models = tuple(dict.fromkeys(given or DEFAULT_MODELS))
    if len({_short(model) for model in models}) < len(models):
        raise EvaluationError(f"two models would share a folder: {', '.join(models)}; use a different --out for each")
    return models


def _short(model: str) -> str:
    """The name of the model's folder."""
    return Path(model).name or model


def _columns(without: list[str] | None) -> tuple[str, ...]:
    from sarsteer.reproduction.plan import BENCHMARKS

    if unknown := [name for name in without or () if name not in BENCHMARKS]:
        raise EvaluationError(
            f"--without {unknown[0]!r}: use one of {', '.join(BENCHMARKS)}" + did_you_mean(unknown[0], BENCHMARKS)
        )
    return tuple(name for name in BENCHMARKS if name not in (without or ()))


def _places(given: list[str] | None) -> dict[str, str]:
    from sarsteer.reproduction.plan import BENCHMARKS

    places: dict[str, str] = {}
    for text in given or ():
        name, _, place = text.partition("=")
        if name not in BENCHMARKS or not place:
            raise EvaluationError(
                f"--data {text!r}: write BENCHMARK=FOLDER, BENCHMARK one of {', '.join(BENCHMARKS)}"
                + (did_you_mean(name, BENCHMARKS) if name not in BENCHMARKS else "")
            )
        if name in places:
            raise EvaluationError(f"--data {name}: is given twice; give each benchmark one folder")
        places[name] = place
    return places


def _missing(required: Requirements | None) -> list[Missing]:
    from sarsteer.reproduction.requirements import find_missing, missing_software

    return list(missing_software(())) if required is None else find_missing(required)


def _print_check(missing: list[Missing], plan: Plan, as_json: bool, check: bool) -> None:
    if as_json:
        steps = [{**vars(step), "arms": step.arms} for step in plan.steps]
        print_json({"missing": [vars(item) for item in missing], "arms": plan.arms, "steps": steps})
        return
    for item in missing:
        errors.print(f"[bold]{item.kind}[/]: {item.what}", highlight=False, soft_wrap=True)
        errors.print(f"    {item.why}", highlight=False, soft_wrap=True, markup=False)
        errors.print(f"    fix: {item.how}", highlight=False, soft_wrap=True, markup=False)
    if missing:
        summary = f"{len(missing)} requirement{'s are' if len(missing) != 1 else ' is'} missing; nothing was run"
        errors.print(
            f"[bold]{summary}[/]; --embedded runs the same grid on the toy model", highlight=False, soft_wrap=True
        )
    for step in plan.steps if check else ():
        count = len(step.benchmarks) * len(step.arms)
        console.print(
            f"{step.model} {step.name}: {count} arms, {step.pairs} calibration pairs: {', '.join(step.arms)}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
