"""The Inspect provider and tasks: answers equal the model's, in batches of any size, and logs contain the settings."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai import eval as inspect_eval
from inspect_ai.log import read_eval_log
from inspect_ai.model import ChatMessageUser, ContentAudio, ContentText, GenerateConfig, Model, get_model

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs
from sarsteer.errors import AudioError
from sarsteer.evaluation.inspect import process
from sarsteer.evaluation.inspect.tasks import TASKS, playable

ROOT = Path(__file__).parents[2]
SHORT = GenerateConfig(max_tokens=24)


@pytest.fixture(scope="module")
def file(steering: Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steering.save(tmp_path_factory.mktemp("inspect") / "steering.safetensors")


@pytest.fixture(autouse=True)
def shared(embedded: sarsteer.AudioLanguageModel) -> Any:
    process.POOL.add_model(embedded)
    yield
    process.POOL.close()


def provider(**arguments: Any) -> Model:
    return get_model("sarsteer/sarsteer-tiny", memoize=False, **arguments)


def message(clip: bytes, text: str) -> list[Any]:
    uri = "data:audio/ogg;base64," + base64.b64encode(clip).decode()
    return [ChatMessageUser(content=[ContentAudio(audio=uri, format="wav"), ContentText(text=text)])]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_answers_equal_the_models(
    batch_size: int, file: Path, steering: Steering, embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs
) -> None:
    """Requests under two defenses wait at once: the vectors change between their batches."""
    items = [item for pair in test_pairs[:3] for item in (pair.harmful, pair.safe)]
    text = steering.metadata["instruction"]
    turns = [item.turn(text) for item in items]
    plain = embedded.generate(turns, 24)
    with steering.on(embedded, alpha=0.3, k=2):
        steered = embedded.generate(turns, 24)
    assert plain != steered
    models = [
        provider(batch_size=batch_size),
        provider(batch_size=batch_size, steering=str(file), alpha=0.3, k=2),
    ]
    assert models[0].api.shared is models[1].api.shared  # type: ignore[attr-defined]

    async def ask() -> list[Any]:
        asked = [m.generate(message(item.audio.read_bytes(), text), config=SHORT) for item in items for m in models]
        return list(await asyncio.gather(*asked))

    outputs = asyncio.run(ask())
    assert [output.completion for output in outputs[::2]] == plain
    assert [output.completion for output in outputs[1::2]] == steered
    logged = outputs[1].metadata
    assert logged["steering"] == steering.digest
    assert logged["model"]["fingerprint"] == embedded.fingerprint.digest
    assert {key: logged["settings"][key] for key in ("alpha", "k", "lambda")} == {"alpha": 0.3, "k": 2, "lambda": 1.0}
    assert logged["decoding"] == outputs[0].metadata["decoding"] == {"max_new_tokens": 24, "do_sample": False}
    assert outputs[0].metadata["defense"] == "none"


def test_a_bad_sample_does_not_affect_the_others(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, test_pairs: Pairs
) -> None:
    text = steering.metadata["instruction"]
    clips = [pair.harmful.audio.read_bytes() for pair in test_pairs[:4]]

    async def ask() -> list[Any]:
        model = provider()
        asked = [model.generate(message(clip, text), config=SHORT) for clip in (*clips[:2], b"no sound", *clips[2:])]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    outputs = asyncio.run(ask())
    assert isinstance(outputs.pop(2), AudioError)
    expected = embedded.generate([pair.harmful.turn(text) for pair in test_pairs[:4]], 24)
    assert [output.completion for output in outputs] == expected


def test_a_task_is_judged_and_logged(tmp_path: Path, file: Path) -> None:
    (log,) = inspect_eval(
        TASKS["embedded"](limit=6, max_new_tokens=24),
        model=provider(steering=str(file), alpha=0.2),
        log_dir=str(tmp_path),
        display="none",
        log_realtime=False,
    )
    log = read_eval_log(log.location)
    assert log.status == "success"
    assert log.samples is not None
    assert log.results is not None
    metrics = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    outcomes = [next(iter((sample.scores or {}).values())).value for sample in log.samples]
    harmful = [o for o, sample in zip(outcomes, log.samples, strict=True) if sample.metadata["label"] == "harmful"]
    assert metrics["asr"] == pytest.approx(harmful.count("complied") / len(harmful))
    assert metrics["broken"] == pytest.approx(outcomes.count("broken") / len(outcomes))
    for rate in ("asr", "rr_harmful", "rr_safe", "brr", "broken"):
        assert metrics[f"{rate}_low"] <= metrics[rate] <= metrics[f"{rate}_high"]
        assert metrics[f"{rate}_n"] in (3, 6)
    assert all((sample.output.metadata or {})["settings"]["alpha"] == 0.2 for sample in log.samples)


def test_every_clip_has_a_player_and_unchanged_bytes(test_pairs: Pairs) -> None:
    """``inspect view`` plays what is labeled WAV or MP3; tried by hand in a browser, with the package's clips."""
    ogg = message(test_pairs[0].safe.audio.read_bytes(), "")[0].content[0]
    shown = playable(ogg)
    assert isinstance(shown, ContentAudio)
    assert (shown.audio.partition(";")[0], shown.format) == ("data:audio/wav", "wav")
    assert shown.audio.partition(",")[2] == ogg.audio.partition(",")[2]
    for kept in (ContentAudio(audio="data:audio/mpeg;base64,AAAA", format="mp3"), ContentText(text="data:audio/ogg;x")):
        assert playable(kept) is kept


@pytest.mark.slow
def test_inspect_finds_the_provider_by_its_entry_point(tmp_path: Path, file: Path) -> None:
    """With the entry point of an installed package, whatever is installed here."""
    entry = re.search(r"\[project.entry-points.inspect_ai\]\n(.*)\n", (ROOT / "pyproject.toml").read_text())
    assert entry is not None
    info = tmp_path / "site" / f"sarsteer-{sarsteer.__version__}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sarsteer\nVersion: {sarsteer.__version__}\n")
    (info / "entry_points.txt").write_text("[inspect_ai]\n" + entry[1].replace('"', "") + "\n")
    (info / "direct_url.json").write_text('{"url": "file:///source", "dir_info": {"editable": true}}')
    paths = [str(tmp_path / "site"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "inspect_ai", "eval", "sarsteer/embedded", "--model", "sarsteer/sarsteer-tiny"),
            *("-M", f"steering={file}", "-T", "limit=2", "-T", "max_new_tokens=16"),
            *("--log-dir", str(tmp_path / "logs"), "--display", "plain", "--no-log-realtime"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "logs").glob("*.eval")
    assert read_eval_log(str(path)).status == "success"


def test_inspect_commands_do_not_import_torch() -> None:
    code = (
        "import sys, sarsteer.evaluation.inspect._registry; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"defense": "sarsteer"}, "needs a steering file"),
        ({"steering": "/nowhere.safetensors"}, "neither a file nor a reachable"),
        ({"strength": 3}, "takes no strength"),
        ({"batch_size": -1}, "at least 1"),
    ],
)
def test_mistakes(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says) as caught:
        provider(**arguments)
    assert type(caught.value).__name__ == "PrerequisiteError"
