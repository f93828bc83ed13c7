"""``sarsteer speak``: read written requests, write clips and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sarsteer.cli import options, source
from sarsteer.cli.output import check_out_folder, console, note, print_json, progress_bar
from sarsteer.errors import SarsteerError


def speak(
    out: Annotated[Path, typer.Option("--out", help="Folder for clips/ and manifest.jsonl.")],
    manifest: source.Manifest = None,
    benchmark: source.BenchmarkName = None,
    folder: source.Folder = None,
    variant: source.Variant = None,
    split: source.Split = None,
    limit: source.Limit = None,
    voice: Annotated[
        list[str] | None, typer.Option("--voice", help="Voice to use; repeatable. Default: the engine's default voice.")
    ] = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="Give each item one voice, in rotation, instead of every voice.")
    ] = False,
    engine: Annotated[str, typer.Option(help="Speech engine: espeak, kokoro, piper or openai.")] = "espeak",
    model: Annotated[str | None, typer.Option(help="Speech model of the openai engine.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of a server with OpenAI's /v1/audio/speech.")] = None,
    speed: Annotated[float, typer.Option(help="Speaking rate. 1 is the engine's default.")] = 1.0,
    i_have_permission: Annotated[
        bool, typer.Option("--i-have-permission", help="Speak a benchmark although its license forbids it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Convert the written requests of a manifest or a benchmark to speech.

    A run that was interrupted resumes when the same command is run again; existing clips are kept.
    """
    check_out_folder(out)
    _check_license(benchmark, i_have_permission)
    from sarsteer.tts.registry import load_engine

    loaded = load_engine(engine, model=model, base_url=base_url)
    items = source.load_source(manifest, benchmark, folder, variant, split, limit)
    written = [item for item in items if item.modality == "text"]
    if not written:
        raise SarsteerError(f"none of the {len(items)} items is text; give a manifest of written requests")
    from sarsteer.data.speech import speak_items

    with progress_bar() as report:
        spoken = speak_items(
            written,
            loaded,
            voice or [loaded.default_voice],
            out,
            speed=speed,
            spread=spread,
            permitted=i_have_permission,
            progress=lambda done, total: report("Speaking", done, total),
        )
    skipped = len(items) - len(written)
    if skipped:
        note(f"skipped {skipped} items that are not text")
    if as_json:
        print_json(
            {
                "manifest": str(spoken.manifest),
                "items": len(spoken.items),
                "clips_made": spoken.new,
                "clips_found": spoken.existing,
                "left_out": skipped,
                "engine": loaded.name,
                "version": loaded.version,
            }
        )
        return
    console.print(f"{spoken.manifest}: {len(spoken.items)} items", markup=False, highlight=False, soft_wrap=True)
    console.print(f"clips: {spoken.new} new, {spoken.existing} existing", highlight=False)


def _check_license(benchmark: str | None, permitted: bool) -> None:
    """Refuse before anything is fetched."""
    from sarsteer.data.benchmarks import BenchmarkSpec
    from sarsteer.data.speech import refuse_unless_permitted

    if benchmark is not None and not permitted:
        refuse_unless_permitted(BenchmarkSpec.parse(benchmark).benchmark)
