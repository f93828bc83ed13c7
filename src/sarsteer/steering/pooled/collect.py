"""Compute a site's activations once, into files: memory stays constant, and a killed run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sarsteer.data.manifest import Item, place_errors
from sarsteer.data.pairs import Pairs, digest_of_items
from sarsteer.errors import CalibrationError
from sarsteer.files import check_space, write_text
from sarsteer.models.activation_source import ActivationSource
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.steering.pooled.setting import Rows

_ITEMS = "items.json"
_NAMES = ("harmful", "prompted", "safe", "benign")


def collect(
    model: ActivationSource,
    pairs: Pairs,
    benign: Sequence[Item],
    instruction: str,
    refusal_prompt: str,
    folder: Path,
    *,
    batch_size: int = DEFAULT_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Rows:
    """The activations of all clips as ``Rows`` whose tensors are mapped from files in ``folder``.

    A folder with the same clips, model and prompts is continued. The files hold what the recordings' owner must not
    give away: keep the folder where the recordings are.

    Raises:
        CalibrationError: the folder is from other settings, or the model is steered.
        AudioError, MessageError: a request is invalid; the error names the item.

    """
    model.check_steerable()
    if model.steered:
        raise CalibrationError("this model is steered; remove the steering before calibrating")
    for item in benign:
        if item.harmful:
            raise CalibrationError("is harmful; benign requests must be safe", place=f"benign item {item.id!r}")
    fingerprint = model.fingerprint
    settings = {
        "fingerprint": fingerprint.identity,
        "dtype": fingerprint.dtype,
        "pairs": pairs.digest,
        "benign": digest_of_items(benign),
        "instruction": instruction,
        "refusal_prompt": refusal_prompt,
    }
    shapes = {name: (len(pairs), model.layer_count, model.hidden_size) for name in _NAMES[:3]}
    shapes["benign"] = (len(benign), model.layer_count, model.hidden_size)
    folder.mkdir(parents=True, exist_ok=True)
    status = folder / "status.json"
    done = _done(status, settings)
    if done is None:
        check_space(status, 4 * sum(int(np.prod(shape)) for shape in shapes.values()))
        files = {name: _create(folder / f"{name}.npy", shape) for name, shape in shapes.items()}
        done = {"pairs": 0, "benign": 0}
        write_text(status, json.dumps({"settings": settings, **done}))
    else:
        files = {name: _opened(folder / f"{name}.npy", shape) for name, shape in shapes.items()}

    def save(kind: str, end: int) -> None:
        for file in files.values():
            if isinstance(file, np.memmap):
                file.flush()
        done[kind] = end
        write_text(status, json.dumps({"settings": settings, **done}))
        if progress is not None:
            progress(done["pairs"] + done["benign"], len(pairs) + len(benign))

    items = {"pairs": _rows(pairs.safe), "benign": _rows(benign)}
    write_text(folder / _ITEMS, json.dumps(items, ensure_ascii=False, default=str))
    for start in range(done["pairs"], len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        end = start + len(batch)
        with place_errors(batch.harmful):
            plain, prompted = model.paired_activations(
                [item.turn(instruction) for item in batch.harmful],
                [item.turn(instruction + refusal_prompt) for item in batch.harmful],
            )
        with place_errors(batch.safe):
            prompts = model.prepare([item.turn(instruction) for item in batch.safe], remember=False)
        files["harmful"][start:end], files["prompted"][start:end] = plain.numpy(), prompted.numpy()
        files["safe"][start:end] = model.last_token_activations(prompts, batch_size=batch_size).numpy()
        save("pairs", end)
    for start in range(done["benign"], len(benign), batch_size):
        chosen = benign[start : start + batch_size]
        with place_errors(chosen):
            prompts = model.prepare([item.turn(instruction) for item in chosen], remember=False)
        end = start + len(chosen)
        files["benign"][start:end] = model.last_token_activations(prompts, batch_size=batch_size).numpy()
        save("benign", end)
    return Rows(**files, pair_items=pairs.safe, benign_items=list(benign))


def collected(folder: Path) -> Rows:
    """What ``collect`` has stored in ``folder``, complete, without the model.

    Raises:
        CalibrationError: the folder is missing, damaged, or not complete yet.

    """
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        kinds = json.loads((folder / _ITEMS).read_text(encoding="utf-8"))
        pairs, benign = ([_item(row) for row in kinds[kind]] for kind in ("pairs", "benign"))
        done = (int(status["pairs"]), int(status["benign"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise CalibrationError("has no activations; run sarsteer federate prepare", place=str(folder)) from None
    if done != (len(pairs), len(benign)):
        raise CalibrationError(
            f"has activations of {sum(done)} of {len(pairs) + len(benign)} requests; run federate prepare again",
            place=str(folder),
        )
    files = {}
    for name in _NAMES:
        count = len(benign) if name == "benign" else len(pairs)
        files[name] = _read(folder / f"{name}.npy", count)
    width = next((file.shape[1:] for file in files.values() if file is not None), (0, 0))
    arrays = {name: np.zeros((0, *width), np.float32) if file is None else file for name, file in files.items()}
    return Rows(**arrays, pair_items=pairs, benign_items=benign)


def _read(path: Path, count: int) -> Any:
    if not count:
        return None
    try:
        file = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        file = None
    if file is None or file.ndim != 3 or len(file) != count or file.dtype != np.float32:
        raise CalibrationError("is missing or damaged; delete its folder to start from scratch", place=str(path))
    return file


def _rows(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [{**vars(item), "media": None if item.media is None else str(item.media.resolve())} for item in items]


def _item(row: dict[str, Any]) -> Item:
    return Item(**{**row, "media": None if row["media"] is None else Path(row["media"])})


def _done(status: Path, settings: dict[str, Any]) -> dict[str, int] | None:
    if not status.exists():
        return None
    try:
        stored = json.loads(status.read_text(encoding="utf-8"))
        done = {name: int(stored[name]) for name in ("pairs", "benign")}
        changed = sorted(key for key in settings if stored["settings"].get(key) != settings[key])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CalibrationError("is damaged; delete its folder to start from scratch", place=str(status)) from None
    if changed:
        raise CalibrationError(
            f"is from a run with another {', '.join(changed)}; delete its folder to start from scratch, or use its "
            "settings",
            place=str(status),
        )
    return done


def _create(path: Path, shape: tuple[int, ...]) -> Any:
    if not shape[0]:  # an empty file cannot be mapped
        return np.zeros(shape, np.float32)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)  # type: ignore[no-untyped-call]


def _opened(path: Path, shape: tuple[int, ...]) -> Any:
    if not shape[0]:
        return np.zeros(shape, np.float32)
    try:
        file = np.lib.format.open_memmap(path, mode="r+")  # type: ignore[no-untyped-call]
    except (OSError, ValueError):
        file = None
    if file is None or file.shape != shape or file.dtype != np.float32:
        raise CalibrationError("is missing or damaged; delete its folder to start from scratch", place=str(path))
    return file
