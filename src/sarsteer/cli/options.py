"""Options that several commands share, declared once so that their names and help texts agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(help="sarsteer-small, sarsteer-tiny, a folder, or a model name on the Hugging Face Hub.")
]
AnyModel = Annotated[
    str, typer.Argument(help="sarsteer-small, sarsteer-tiny, a folder, a model name on the Hub, or openai/NAME.")
]
Device = Annotated[str | None, typer.Option(help="Device, such as cpu or cuda:0. Default: a GPU if available.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Default: the checkpoint's.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Allow the checkpoint's Python code to run.")
]
Layers = Annotated[str | None, typer.Option(help="Dotted path to the decoder layers, if they are not found.")]
AudioRoot = Annotated[
    Path | None, typer.Option(help="Folder that contains the clips of a manifest. Default: the manifest's folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, also for errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Write a chart: .png, .svg or .pdf.")]
MaxNewTokens = Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.", min=1)]
BatchSize = Annotated[int, typer.Option(help="Requests per forward pass. Lower it if memory runs out.", min=1)]
Alpha = Annotated[float | None, typer.Option(help="Steering strength. Default: the steering file's.")]
K = Annotated[
    int | None, typer.Option("--k", help="Number of safe components to ablate. Default: the steering file's.", min=0)
]
Lambda = Annotated[float | None, typer.Option("--lambda", help="Ablation coefficient. Default: the steering file's.")]
SteeringFile = Annotated[Path | None, typer.Option("--steering", help="Steering file from sarsteer calibrate.")]
RequestLimit = Annotated[
    int | None,
    typer.Option("--limit", help="Use only the first N requests of each benchmark.", min=1, metavar="N"),
]
TextAfterClips = Annotated[
    str | None,
    typer.Option("--instruction", help="Text after clips that have none of their own. Default: the paper's."),
]
Voices = Annotated[
    str | None,
    typer.Option(
        "--voices",
        metavar="VOICE,VOICE",
        help="Who speaks sarsteer-pairs: [ENGINE:]VOICE each, such as en-us+f3 or kokoro:af_heart. Default: eight "
        "English voices of eSpeak NG.",
    ),
]


def voice_list(voices: str | None, *sources: str | None) -> list[str] | None:
    """The voices that ``--voices`` names; None for the default ones.

    Raises:
        SarsteerError: voices are named and none of ``sources`` is sarsteer-pairs, the only set that is spoken on use.

    """
    if voices is None:
        return None
    from sarsteer.data.sarsteer_pairs import NAME
    from sarsteer.errors import SarsteerError

    if NAME not in sources:
        raise SarsteerError(f"--voices needs --pairs {NAME}: other clips exist already")
    return [voice.strip() for voice in voices.split(",")]
