"""Other people's clients against a server: Inspect AI, Open WebUI's filter, a voice loop; LiteLLM, pipecat and LiveKit.

The last three need an environment of their own, and LiteLLM's proxy another one: ``make test-integrations`` names their
Pythons in ``SARSTEER_INTEGRATIONS_PYTHON`` and ``SARSTEER_LITELLM_PROXY_PYTHON``.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from sarsteer.audio import load_clip
from tests.server.conftest import QUESTION, TOKENS, Messages, Offline, Server, free_port, key

ROOT = Path(__file__).parents[2]
OTHER_PYTHON = os.environ.get("SARSTEER_INTEGRATIONS_PYTHON")
PROXY_PYTHON = os.environ.get("SARSTEER_LITELLM_PROXY_PYTHON")
needs_other_python = pytest.mark.skipif(not OTHER_PYTHON, reason="run make test-integrations")


def in_other_python(script: str, settings: dict[str, Any]) -> Any:
    command = [str(OTHER_PYTHON), "-m", f"tests.server.clients.{script}"]
    done = subprocess.run(command, input=json.dumps(settings), capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def settings(server: Server) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.port}/v1"
    return {"url": url, "key": key("strong"), "gated": key("gated"), "model": "sarsteer-tiny", "tokens": TOKENS}


@needs_other_python
def test_litellm_routes_to_the_server_and_guards_other_models(
    settings: dict[str, Any], requests: list[Messages], offline: Offline
) -> None:
    chosen = requests[:4]
    found = in_other_python("litellm_client", {**settings, "requests": chosen})
    assert found["answers"] == [offline.answer("strong", one).text for one in chosen]
    assert found["streamed"] == found["answers"][0]
    opened = [offline.answer("gated", one).opened for one in chosen]
    assert set(opened) == {True, False}
    for one, guarded in zip(opened, found["guarded"], strict=True):
        assert guarded == ("400 True: I am sorry, but I cannot help with that." if one else "passed")
    assert found["no gate"].startswith("503 False") and "'steered'" in found["no gate"]  # noqa: PT018
    assert found["no server"].startswith("503 False")
    assert found["wrong key"].startswith("503 False") and "401" in found["wrong key"]  # noqa: PT018


@pytest.fixture
def proxy(settings: dict[str, Any], tmp_path: Path) -> Iterator[Any]:
    """LiteLLM's proxy with the example's configuration; its other model is the server's tenant without a gate."""
    import openai

    shutil.copy(ROOT / "examples/integrations/litellm_guardrail.py", tmp_path)
    config = yaml.safe_load((ROOT / "examples/integrations/litellm_config.yaml").read_text())
    for model in config["model_list"]:
        other = model["model_name"] == "gpt-audio"
        options = {"api_base": settings["url"], "api_key": settings["key"]} if other else {"api_base": settings["url"]}
        model["litellm_params"] |= {**options, "model": f"openai/{settings['model']}", "max_retries": 0}
    config["guardrails"][0]["litellm_params"]["sarsteer_url"] = settings["url"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [str(Path(str(PROXY_PYTHON)).parent / "litellm"), "--config", "config.yaml", "--port", str(port)]
    master = f"sk-{secrets.token_hex(32)}"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"SARSTEER_KEY": settings["gated"], "LITELLM_MASTER_KEY": master}
    variables |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # it would load prices from the network
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env=variables)
    try:
        for _ in range(3000):
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=10).close()
                break
            except OSError:
                time.sleep(0.1)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=master, max_retries=0, timeout=300)
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not PROXY_PYTHON, reason="run make test-integrations")
def test_litellms_proxy_with_the_guardrail_and_the_route(
    proxy: Any, requests: list[Messages], offline: Offline
) -> None:
    import openai

    opened = [offline.answer("gated", one).opened for one in requests[:4]]
    assert set(opened) == {True, False}
    for messages, harmful in zip(requests, opened, strict=False):
        for model, tenant in (("voice", "gated"), ("gpt-audio", "strong")):
            if harmful:
                with pytest.raises(openai.BadRequestError, match="I am sorry, but I cannot help"):
                    proxy.chat.completions.create(model=model, messages=messages, max_tokens=TOKENS)
                continue
            whole = proxy.chat.completions.create(model=model, messages=messages, max_tokens=TOKENS)
            assert whole.choices[0].message.content == offline.answer(tenant, messages).text
            stream = proxy.chat.completions.create(model=model, messages=messages, max_tokens=TOKENS, stream=True)
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            assert "".join(pieces) == whole.choices[0].message.content


@needs_other_python
def test_pipecat_and_livekit_answer_with_the_server(server: Server, settings: dict[str, Any], test_pairs: Any) -> None:
    clip = load_clip(test_pairs[0].safe.audio)
    file = io.BytesIO()
    soundfile.write(file, clip.samples, clip.rate, format="WAV", subtype="PCM_16")
    wav = base64.b64encode(file.getvalue()).decode()
    found = in_other_python("voice_clients", {**settings, "wav": wav, "text": "hello"})
    audio = {"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}}
    message = [{"role": "user", "content": [audio, {"type": "text", "text": QUESTION}]}]
    heard = found["pipecat"]
    assert heard["text"] == server.ask("strong", message).parse().choices[0].message.content
    assert heard["errors"] == []
    assert [kind for kind in heard["kinds"] if kind.startswith("LLM")] == [
        "LLMFullResponseStartFrame",
        "LLMTextFrame",
        "LLMFullResponseEndFrame",
    ]
    assert found["no server"]["text"] == ""
    assert len(found["no server"]["errors"]) == 1
    written = server.ask("strong", [{"role": "user", "content": "hello"}], max_tokens=200)
    assert found["livekit"] == written.parse().choices[0].message.content


def test_inspect_ai_asks_the_server_as_any_openai_api(
    settings: dict[str, Any], requests: list[Messages], offline: Offline
) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.model import ChatMessageUser, ContentAudio, ContentText, GenerateConfig, get_model

    model = get_model(
        "openai-api/sarsteer/sarsteer-tiny",
        base_url=settings["url"],
        api_key=settings["key"],
        config=GenerateConfig(max_tokens=TOKENS, max_retries=0),
    )
    data = requests[0][0]["content"][0]["input_audio"]["data"]
    audio = ContentAudio(audio=f"data:audio/wav;base64,{data}", format="wav")
    message = ChatMessageUser(content=[audio, ContentText(text=QUESTION)])
    output = asyncio.run(model.generate([message]))
    assert output.completion == offline.answer("strong", requests[0]).text


def load_filter(settings: dict[str, Any], **changes: Any) -> Any:
    """The file, executed as Open WebUI executes a pasted function."""
    space: dict[str, Any] = {"__name__": "function_sarsteer"}
    exec(compile((ROOT / "examples/integrations/open_webui_filter.py").read_text(), "filter", "exec"), space)
    found = space["Filter"]()
    options = {"url": settings["url"], "key": settings["gated"], "model": settings["model"], **changes}
    found.valves = found.Valves(**options)
    return found


def test_the_open_webui_filter_refuses_what_the_gate_refuses(
    settings: dict[str, Any], requests: list[Messages], offline: Offline
) -> None:
    for messages in requests[:4]:
        body = {"model": "another", "messages": messages}
        if offline.answer("gated", messages).opened:
            with pytest.raises(RuntimeError, match="I am sorry"):
                asyncio.run(load_filter(settings).inlet(body))
        else:
            assert asyncio.run(load_filter(settings).inlet(body)) == body
    for changes, words in (
        ({"key": settings["key"]}, "give its tenant a gate"),
        ({"key": "x" * 20}, "answered 401"),
        ({"url": "http://127.0.0.1:9/v1"}, "cannot be reached"),
    ):
        with pytest.raises(RuntimeError, match=words):
            asyncio.run(load_filter(settings, **changes).inlet({"messages": requests[0]}))


def test_the_voice_loop_answers_each_turn_of_a_recording(
    settings: dict[str, Any], test_pairs: Any, tmp_path: Path
) -> None:
    pytest.importorskip("espeakng_loader")
    clips = [load_clip(test_pairs[i].safe.audio) for i in (0, 1)]
    noise = np.random.default_rng(0)
    silence = np.zeros(clips[0].rate, np.float32)
    recording = np.concatenate([silence, clips[0].samples, silence, clips[1].samples, silence])
    recording = recording + noise.normal(0, 0.001, len(recording)).astype(np.float32)  # a microphone's
    soundfile.write(tmp_path / "microphone.wav", recording, clips[0].rate)
    command = [sys.executable, "examples/voice_loop.py", str(tmp_path / "microphone.wav"), "--out", str(tmp_path)]
    command += ["--url", settings["url"], "--key", settings["key"], "--max-tokens", str(TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout
    for number, (line, clip) in enumerate(zip(lines, clips, strict=True), 1):
        assert line.startswith(f"turn {number}: ")
        assert "[steered]" in line
        heard = float(line.split()[2])
        # at most the padding before, and the silence that ends a turn, are added
        assert len(clip.samples) / clip.rate - 0.3 < heard < len(clip.samples) / clip.rate + 1.0
        spoken, _ = soundfile.read(tmp_path / f"answer-{number}.wav")
        assert np.abs(spoken).max() > 0.1
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, silence, clips[0].rate)
    done = subprocess.run([*command[:2], str(quiet), *command[3:]], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "has no speech" in done.stderr
