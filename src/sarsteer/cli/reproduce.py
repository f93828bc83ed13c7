"""``sarsteer reproduce``: the paper's table, ablation and sensitivity, or a list of what is missing for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sarsteer.cli.output import console, errors, print_json, progress_bar, quiet_transformers
from sarsteer.errors import EvaluationError

if TYPE_CHECKING:
    from sarsteer.reproduction.missing import Missing, Wanted
    from sarsteer.reproduction.plan import Plan, Setup


def reproduce(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="The same grid on the embedded toy model: needs nothing else.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="table2, ablation or sensitivity; repeatable. All.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="qwen2-audio, kimi-audio, ..., a folder or a Hub name; repeatable. Those two."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="BENCHMARK=FOLDER, or BENCHMARK=MANIFEST.jsonl; one for each benchmark."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="A benchmark to leave out; repeatable.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Pairs to calibrate on; those in the FigStep folder by default.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="How many of them.", min=2)] = 100,
    judge: Annotated[str | None, typer.Option(help="Of refusals; SORRY-Bench's own by default.")] = None,
    judge_prompts: Annotated[Path | None, typer.Option(help="SORRY-Bench's judge-prompt file.")] = None,
    air_judge: Annotated[str | None, typer.Option(help="Of AIR-Bench: air-bench:openai/NAME.")] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many requests of each: a quick look.", min=1)] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path("reproduction"),
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The longest answer, in tokens; 256, and 32 for the toy.", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Requests a forward; lower it when memory runs out.", min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="Such as cuda:0; cpu goes without a GPU, and takes weeks.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Say what is missing and what would run, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Run the paper's table, ablation and sensitivity with the real checkpoints and data, and write one report.

    Where anything is missing (checkpoints, data, judges, memory), all of it is listed with how to get it, before any
    work, and the exit code is 2. With --embedded the same grid runs on the toy model that ships with sarsteer. A run
    that was killed goes on when started again; parts may be run one by one into the same folder.
    """
    from sarsteer.reproduction.missing import JUDGE, Wanted
    from sarsteer.reproduction.plan import PARTS, make_plan

    quiet_transformers()
    parts = tuple(dict.fromkeys(only or PARTS))
    if out.exists() and not out.is_dir():
        raise EvaluationError(f"{out}: is a file; name a folder with --out")
    wanted = None
    if embedded:
        given = (model, data, without, calibration, judge, judge_prompts, air_judge)
        if any(value is not None for value in given):
            raise EvaluationError("--embedded brings its model, data and judge; leave those options out")
        setup = _embedded(pairs, limit, max_new_tokens or 32)
    else:
        prompts = f",prompts={judge_prompts}" if judge_prompts is not None else ""
        wanted = Wanted(
            models=_models(model),
            benchmarks=_columns(without),
            data=_places(data),
            calibration=calibration,
            judge=(judge or f"sorry-bench:{JUDGE}") + prompts,
            air_judge=air_judge,
            device=device,
        )
        setup = _real(wanted, pairs, limit, max_new_tokens or 256)
    plan = make_plan(setup, parts)
    missing = _missing(wanted)
    if missing or check:
        _tell(missing, plan, as_json, check)
        raise typer.Exit(2 if missing else 0)
    _run(plan, out, batch_size, _loading(wanted, device), as_json)


def _run(plan: Plan, out: Path, batch_size: int, loading: dict[str, dict[str, Any]], as_json: bool) -> None:
    from sarsteer.reproduction.plan_file import FILE, keep_plan
    from sarsteer.reproduction.report import write_report
    from sarsteer.reproduction.run import run_plan

    kept = keep_plan(plan, out)
    with progress_bar() as progress:
        run_plan(plan, out, batch_size=batch_size, loading=loading, progress=progress)
    page, table = write_report(kept, out)
    if as_json:
        files = {"report": str(page), "markdown": str(table), "plan": str(out / FILE)}
        print_json({**files, "steps": [f"{step.model}/{step.name}" for step in plan.steps], "arms": plan.arms})
        return
    print(table.read_text(encoding="utf-8"))
    console.print(f"Report with figures: [bold]{page}[/]", highlight=False, soft_wrap=True)


def _embedded(pairs: int, limit: int | None, max_new_tokens: int) -> Setup:
    from sarsteer import tiny
    from sarsteer.reproduction.plan import Setup

    return Setup({tiny.NAME: tiny.NAME}, {"embedded": "embedded"}, tiny.NAME, pairs, (), limit, max_new_tokens)


def _real(wanted: Wanted, pairs: int, limit: int | None, max_new_tokens: int) -> Setup:
    from sarsteer import tiny
    from sarsteer.reproduction.missing import calibration_of, spec_of
    from sarsteer.reproduction.plan import Setup
    from sarsteer.reproduction.published import MODELS

    return Setup(
        models={_short(key): MODELS[key].checkpoint if key in MODELS else key for key in wanted.models},
        benchmarks={name: spec_of(name, wanted.data.get(name, "")) for name in wanted.benchmarks},
        calibration=calibration_of(wanted) or "",
        pairs=pairs,
        judges=(wanted.judge, *([wanted.air_judge] if wanted.air_judge else [])),
        limit=limit,
        max_new_tokens=max_new_tokens,
        dtype=None if set(wanted.models) == {tiny.NAME} else "bfloat16",
    )


def _loading(wanted: Wanted | None, device: str | None) -> dict[str, dict[str, Any]]:
    from sarsteer import tiny
    from sarsteer.reproduction.published import MODELS

    names = [tiny.NAME] if wanted is None else list(wanted.models)
    remote = {name: True for name in names if name in MODELS and MODELS[name].remote_code}
    return {_short(name): {"device": device, "trust_remote_code": remote.get(name)} for name in names}


def _models(given: list[str] | None) -> tuple[str, ...]:
    from sarsteer.reproduction.published import DEFAULT_MODELS

    models = tuple(dict.fromkeys(given or DEFAULT_MODELS))
    if len({_short(model) for model in models}) < len(models):
        raise EvaluationError(f"two models would share a folder: {', '.join(models)}; run them into different --out")
    return models


def _short(model: str) -> str:
    """The name of a model's folder."""
    return Path(model).name or model


def _columns(without: list[str] | None) -> tuple[str, ...]:
    from sarsteer.reproduction.plan import BENCHMARKS

    if unknown := [name for name in without or () if name not in BENCHMARKS]:
        raise EvaluationError(f"--without {unknown[0]!r}: use one of {', '.join(BENCHMARKS)}")
    return tuple(name for name in BENCHMARKS if name not in (without or ()))


def _places(given: list[str] | None) -> dict[str, str]:
    from sarsteer.reproduction.plan import BENCHMARKS

    places: dict[str, str] = {}
    for text in given or ():
        name, _, place = text.partition("=")
        if name not in BENCHMARKS or not place:
            raise EvaluationError(f"--data {text!r}: write BENCHMARK=FOLDER, BENCHMARK one of {', '.join(BENCHMARKS)}")
        if name in places:
            raise EvaluationError(f"--data {name}: is given twice; give each benchmark one folder")
        places[name] = place
    return places


def _missing(wanted: Wanted | None) -> list[Missing]:
    from sarsteer.reproduction.missing import find_missing, software_missing

    return list(software_missing(())) if wanted is None else find_missing(wanted)


def _tell(missing: list[Missing], plan: Plan, as_json: bool, check: bool) -> None:
    if as_json:
        steps = [vars(step) for step in plan.steps]
        print_json({"missing": [vars(one) for one in missing], "arms": plan.arms, "steps": steps})
        return
    for one in missing:
        errors.print(f"[bold]{one.kind}[/]: {one.what}", highlight=False, soft_wrap=True)
        errors.print(f"    {one.why}", highlight=False, soft_wrap=True, markup=False)
        errors.print(f"    get it: {one.how}", highlight=False, soft_wrap=True, markup=False)
    if missing:
        told = f"{len(missing)} thing{'s are' if len(missing) != 1 else ' is'} missing; nothing was run"
        errors.print(
            f"[bold]{told}[/]; --embedded runs the same grid on the toy model", highlight=False, soft_wrap=True
        )
    for step in plan.steps if check else ():
        count = len(step.benchmarks) * len(step.defenses)
        console.print(
            f"{step.model} {step.name}: {count} arms, {step.pairs} calibration pairs: {', '.join(step.defenses)}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
