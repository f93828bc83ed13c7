"""``sarsteer federate``: calibrate over many sites that send sums, never recordings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.help import Command, Group
from sarsteer.cli.output import check_out, console, note, print_json, progress_bar, quiet_transformers
from sarsteer.errors import SarsteerError

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item
    from sarsteer.data.pairs import Pairs
    from sarsteer.federated.plan import Plan
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.pooled.setting import Rows

app = typer.Typer(
    cls=Group,
    help="Calibrate over many sites: each sends sums over its clips, and no recording leaves it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Pairs = Annotated[
    str, typer.Option("--pairs", help="As in calibrate: sarsteer-pairs, a manifest, or none for only safe clips.")
]
_Benign = Annotated[str, typer.Option("--benign", help="Safe requests without a twin, as in calibrate, or none.")]
_Rank = Annotated[int, typer.Option(help="Columns of the sketch of second moments; 0 for none.", min=0)]
_Unmasked = Annotated[bool, typer.Option("--unmasked", help="Send each site's sums in the clear to the server.")]
_Cohorts = Annotated[
    int, typer.Option(help="Groups that sites are masked in; the server sees each group's sum.", min=1)
]
_Robust = Annotated[
    bool, typer.Option("--robust", help="Leave out sites or cohorts whose sums are far from the others'.")
]
_Epsilon = Annotated[float | None, typer.Option(help="Privacy to spend per record. Default: no noise.")]
_Delta = Annotated[float, typer.Option(help="Delta of the privacy.")]
_Radius = Annotated[float, typer.Option(help="Longest activation around the center, as a multiple of the center's.")]
_Gate = Annotated[bool, typer.Option("--gate/--no-gate", help="Fit a gate, too: three more rounds.")]
_Fpr = Annotated[float, typer.Option(help="Share of safe requests that may open the gate.")]
_Limit = Annotated[int | None, typer.Option(help="Use only the first N pairs and benign requests.", min=1, metavar="N")]
_BatchSize = Annotated[int, typer.Option(help="Pairs per step. Lower it if memory runs out.", min=1)]


@app.command(cls=Command)
def key(path: Annotated[Path, typer.Argument(help="File to write the private key to.")]) -> None:
    """Create a site's key and print its public half, which the plan needs."""
    from sarsteer.federated.identity import Identity

    identity = Identity.new()
    identity.save(path)
    print(identity.public)


@app.command(cls=Command)
def plan(
    model: options.Model,
    site: Annotated[
        list[str], typer.Option("--site", metavar="NAME=KEY", help="A site and its public key; repeat it.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Plan file to write (.safetensors).")],
    pair_group: Annotated[
        list[str] | None, typer.Option(help="A group of pairs; repeat it. Default: twin and borderline.")
    ] = None,
    benign_group: Annotated[
        list[str] | None, typer.Option(help="A group of other safe requests; repeat it. Default: everyday and other.")
    ] = None,
    min_sites: Annotated[
        int | None, typer.Option(help="Sites that must answer. Default: more than two thirds.")
    ] = None,
    rank: _Rank = 64,
    unmasked: _Unmasked = False,
    cohorts: _Cohorts = 1,
    robust: _Robust = False,
    epsilon: _Epsilon = None,
    delta: _Delta = 1e-5,
    radius: _Radius = 8.0,
    gate: _Gate = True,
    target_fpr: _Fpr = 0.05,
    records: Annotated[int, typer.Option(help="Most pairs and other requests of one site.", min=1)] = 65536,
    instruction: Annotated[str | None, typer.Option(help="Text after each clip. Default: the paper's.")] = None,
    refusal_prompt: Annotated[str | None, typer.Option(help="Refusal prompt. Default: the paper's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sketch, and of what each clip is used for.", min=0)] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Write a plan: the model, the sites, and everything else that all must agree on."""
    check_out(out, overwrite=overwrite)
    sites: dict[str, str] = {}
    for text in site:
        name, equals, public = text.partition("=")
        if not equals:
            raise SarsteerError(f"--site must be NAME=KEY, not {text!r}; print a key with sarsteer federate key")
        if name in sites:
            raise SarsteerError(f"--site {name!r} is given twice; give each site one name")
        sites[name] = public.strip().lower()
    from sarsteer.federated.plan import GROUPS, make_plan

    made = make_plan(
        _model(model, device, dtype, revision),
        sites,
        *_prompts(instruction, refusal_prompt),
        groups=(pair_group or GROUPS[0], GROUPS[1] if benign_group is None else benign_group),
        rank=rank,
        seed=seed,
        min_sites=min_sites,
        radius=radius,
        epsilon=epsilon,
        delta=delta,
        target_fpr=target_fpr,
        gate=gate,
        masked=not unmasked,
        cohorts=cohorts,
        robust=robust,
        records=records,
    )
    made.save(out)
    payload = _payload(made)
    if as_json:
        print_json({"file": str(out), "digest": made.digest, "bytes_per_site": payload, "privacy": _privacy(made)})
        return
    console.print(
        f"[bold]{out}[/]: plan {made.digest[:12]}, {len(sites)} sites, at least {made.min_sites}; a site sends about "
        f"{payload / 1e6:.1f} MB. Give this file to the server and to every site.",
        highlight=False,
        soft_wrap=True,
    )
    if made.privacy is not None:
        note(
            f"all rounds spend ε = {made.privacy.epsilon():.3g} at δ = {delta:g}; noise multiplier "
            f"{made.privacy.multiplier:.3g}"
        )


@app.command(cls=Command)
def serve(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    out: Annotated[Path, typer.Option("--out", help="Steering file to write (.safetensors).")],
    state: Annotated[Path, typer.Option("--state", help="Folder for progress; a server started again continues.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.", min=0, max=65535)] = 8443,
    cert: Annotated[
        Path | None, typer.Option(help="TLS certificate (PEM). Default: a self-signed one in the state folder.")
    ] = None,
    cert_key: Annotated[Path | None, typer.Option(help="Key of the certificate (PEM).")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for more sites once enough have joined.", min=0)] = 60.0,
    step_seconds: Annotated[float, typer.Option(help="Seconds that a site may take for a step.", min=0.1)] = 120.0,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Add up the sums of all sites, and write the steering file. The server needs neither model nor GPU."""
    check_out(out, overwrite=overwrite)
    if (cert is None) != (cert_key is None):
        raise SarsteerError("give both --cert and --cert-key, or neither")
    from sarsteer.federated.certificate import self_signed
    from sarsteer.federated.plan import Plan
    from sarsteer.federated.server import Federation
    from sarsteer.federated.server import serve as run
    from sarsteer.files import exclusive

    agreed = Plan.load(plan)
    with exclusive(state):
        federation = Federation(agreed, state, wait_seconds=wait, step_seconds=step_seconds, report=note)
        if cert is None or cert_key is None:
            cert, cert_key = self_signed(host, state)
            note(f"sites need the certificate: sarsteer federate join --ca {cert}")
        steering = run(federation, host, port, cert, cert_key, note)
        steering.save(out)
    _print(steering, out, as_json)


@app.command(cls=Command)
def prepare(
    model: options.Model,
    plan: Annotated[Path, typer.Option("--plan", help="Plan file, from a source that you trust.")],
    pairs: _Pairs,
    state: Annotated[Path, typer.Option("--state", help="Folder for activations, which stay here.")],
    benign: _Benign = "none",
    voices: options.Voices = None,
    audio_root: options.AudioRoot = None,
    limit: _Limit = None,
    batch_size: _BatchSize = 16,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
) -> None:
    """Compute this site's activations only. join continues from them; a Flower node reads them."""
    from sarsteer.federated.plan import Plan
    from sarsteer.files import exclusive

    agreed = Plan.load(plan)
    chosen, others = _clips(pairs, benign, voices, audio_root, limit)
    source = _model(model, device, dtype or agreed.fingerprint.dtype, revision)
    agreed.check_model(source.fingerprint)
    with exclusive(state):
        _collect(source, agreed, chosen, others, state, batch_size)
    note(f"{state}: activations of {len(chosen)} pairs and {len(others)} other safe requests")


def _collect(source: Any, plan: Plan, pairs: Pairs, benign: list[Item], state: Path, batch_size: int) -> Rows:
    from sarsteer.steering.pooled.collect import collect

    with progress_bar() as report:
        return collect(
            source, pairs, benign, plan.instruction, plan.refusal_prompt, state / "activations",
            batch_size=batch_size, progress=lambda done, total: report("Computing activations", done, total),
        )  # fmt: skip


@app.command(cls=Command)
def join(
    url: Annotated[str, typer.Argument(help="Address of the server, https://HOST:PORT.")],
    model: options.Model,
    plan: Annotated[Path, typer.Option("--plan", help="Plan file, from a source that you trust.")],
    name: Annotated[str, typer.Option("--name", help="This site's name in the plan.")],
    key: Annotated[Path, typer.Option("--key", help="This site's key file.")],
    pairs: _Pairs,
    state: Annotated[Path, typer.Option("--state", help="Folder for activations, which stay here, and progress.")],
    benign: _Benign = "none",
    ca: Annotated[
        Path | None, typer.Option(help="Certificate that the server must have. Default: the system's.")
    ] = None,
    voices: options.Voices = None,
    audio_root: options.AudioRoot = None,
    limit: _Limit = None,
    batch_size: _BatchSize = 16,
    patience: Annotated[float, typer.Option(help="Seconds to try an unreachable server again.", min=0)] = 300.0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    as_json: options.Json = False,
) -> None:
    """Take part with this site's clips. Sums leave this machine; clips, texts and activations do not."""
    from sarsteer.federated.client import join as run
    from sarsteer.federated.identity import Identity
    from sarsteer.federated.plan import Plan
    from sarsteer.federated.site import Site
    from sarsteer.files import exclusive

    agreed, identity = Plan.load(plan), Identity.load(key)
    chosen, others = _clips(pairs, benign, voices, audio_root, limit)
    source = _model(model, device, dtype or agreed.fingerprint.dtype, revision)
    agreed.check_model(source.fingerprint)
    with exclusive(state):
        rows = _collect(source, agreed, chosen, others, state, batch_size)
        site = Site(name, identity, agreed, rows)
        result = run(url, site, identity, ca=ca, state=state, patience=patience, report=note)
    if as_json:
        print_json(result)
    else:
        console.print(f"done: {len(result['sites'])} sites, steering {result['digest'][:12]}", highlight=False)


@app.command(cls=Command)
def simulate(
    model: options.Model,
    pairs: _Pairs,
    out: Annotated[Path, typer.Option("--out", help="Steering file to write (.safetensors).")],
    sites: Annotated[int, typer.Option(help="Number of sites; the clips are shared among them unequally.", min=1)] = 10,
    only_safe: Annotated[int, typer.Option(help="How many of the sites have only safe clips.", min=0)] = 0,
    benign: _Benign = "none",
    voices: options.Voices = None,
    audio_root: options.AudioRoot = None,
    limit: _Limit = None,
    rank: _Rank = 64,
    unmasked: _Unmasked = False,
    cohorts: _Cohorts = 1,
    robust: _Robust = False,
    epsilon: _Epsilon = None,
    delta: _Delta = 1e-5,
    radius: _Radius = 8.0,
    gate: _Gate = True,
    target_fpr: _Fpr = 0.05,
    seed: Annotated[int, typer.Option(help="Of how clips are shared, and of the sketch.", min=0)] = 0,
    batch_size: _BatchSize = 16,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Calibrate as many sites would, on this machine: what federation would cost before it is set up."""
    check_out(out, overwrite=overwrite)
    if not 0 <= only_safe < sites:
        raise SarsteerError(f"--only-safe must be below the number of sites ({sites}), not {only_safe}")
    from sarsteer.federated.plan import make_plan
    from sarsteer.federated.simulate import keys_for, unequal
    from sarsteer.federated.simulate import simulate as run
    from sarsteer.steering.pooled.collect import collect

    chosen, others = _clips(pairs, benign, voices, audio_root, limit)
    if not len(chosen):
        raise SarsteerError("simulate needs pairs; give --pairs")
    source = _model(model, device, dtype, revision)
    keys = keys_for(sites)
    agreed = make_plan(
        source, {name: one.public for name, one in keys.items()}, *_prompts(None, None),
        groups=(sorted({pair.safe.group for pair in chosen}), sorted({item.group for item in others})),
        rank=rank, seed=seed, radius=radius, epsilon=epsilon, delta=delta, target_fpr=target_fpr, gate=gate,
        masked=not unmasked, cohorts=cohorts, robust=robust,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, progress_bar() as report:
        rows = collect(
            source, chosen, others, agreed.instruction, agreed.refusal_prompt, Path(folder),
            batch_size=batch_size, progress=lambda done, total: report("Computing activations", done, total),
        )  # fmt: skip
        shared = unequal(rows, list(keys), seed, list(keys)[:only_safe])
        for name, one in shared.items():
            note(f"{name}: {len(one.pair_items)} pairs, {len(one.benign_items)} other safe requests")
        steering, transport = run(agreed, keys, shared, report=note)
    note(f"each site sent {max(transport.received.values()) / 1e6:.1f} MB and received "
         f"{max(transport.sent.values()) / 1e6:.1f} MB")  # fmt: skip
    steering.save(out)
    _print(steering, out, as_json)


def _clips(
    pairs: str, benign: str, voices: str | None, audio_root: Path | None, limit: int | None
) -> tuple[Pairs, list[Item]]:
    from sarsteer.data.pairs import Pairs, load_benign, load_pairs
    from sarsteer.data.sarsteer_pairs import NAME

    spoken = options.voice_list(voices)
    if spoken is not None and NAME not in (pairs, benign):
        raise SarsteerError(f"--voices needs --pairs {NAME}: other clips exist already")
    if pairs == "none" and benign == "none":
        raise SarsteerError("give --pairs or --benign: a site without clips has nothing to add")
    chosen = (
        Pairs([])
        if pairs == "none"
        else load_pairs(
            pairs, "calibration", voices=spoken if pairs == NAME else None, audio_root=audio_root, limit=limit
        )
    )
    others = (
        []
        if benign == "none"
        else load_benign(
            benign, "calibration", voices=spoken if benign == NAME else None, audio_root=audio_root, limit=limit
        )
    )
    return chosen, others


def _model(model: str, device: str | None, dtype: str | None, revision: str | None) -> Any:
    quiet_transformers()
    from sarsteer.models.loading import load_model

    return load_model(model, device=device, dtype=dtype, revision=revision)


def _prompts(instruction: str | None, refusal_prompt: str | None) -> tuple[str, str]:
    from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT

    return (
        INSTRUCTION if instruction is None else instruction,
        REFUSAL_PROMPT if refusal_prompt is None else refusal_prompt,
    )


def _payload(plan: Plan) -> int:
    """Bytes that a site sends in the largest round."""
    from sarsteer.steering.pooled.rounds import Query, layout_of
    from sarsteer.steering.pooled.sums import size

    return 8 * size(layout_of(plan.setting, Query("statistics")))


def _privacy(plan: Plan) -> dict[str, float] | None:
    if plan.privacy is None:
        return None
    return {"epsilon": plan.privacy.epsilon(), "delta": plan.privacy.delta, "noise_multiplier": plan.privacy.multiplier}


def _print(steering: Steering, out: Path, as_json: bool) -> None:
    from sarsteer.steering.gate.report import summary

    federated = steering.metadata["federated"]
    gate = None if steering.gate is None else summary(steering.gate)
    if as_json:
        print_json({"file": str(out), "digest": steering.digest, "gate": gate, "federated": federated})
        return
    console.print(
        f"[bold]{out}[/]: {steering.metadata['pairs']} pairs of {len(federated['sites'])} sites, "
        f"{len(federated['rounds'])} rounds. Show it: sarsteer show {out}",
        highlight=False,
        soft_wrap=True,
    )
    if federated["privacy"] is not None:
        console.print(f"privacy spent: ε = {federated['privacy']['epsilon']:.3g}", highlight=False)
    if gate is not None:
        console.print(f"gate: {gate}. Use it with --gate", highlight=False)
        without = None if steering.gate is None else steering.gate.metadata.get("no_distance_limit")
        if without is not None:
            note(f"the gate has no distance limit: {without}")
    else:
        note(f"no gate: {steering.metadata['no_gate']}")
