"""Families are found in their modules and in installed packages, and the docs' example of a new one works."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sarsteer import AudioLanguageModel
from sarsteer.errors import AudioError, ModelError
from sarsteer.models import family as registry
from sarsteer.models.families.qwen2_audio import QWEN2_AUDIO
from sarsteer.models.families.voxtral import Voxtral
from sarsteer.models.family import GENERIC, Family, families, family_named, family_of, register
from sarsteer.steering.handle import attach
from sarsteer.steering.strength import ResolvedStrength
from tests.support.families import make
from tests.support.tiny import conversation, random_vectors, tiny_qwen2_audio

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(autouse=True)
def _built_in_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts with the families of the package only."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_discovered", None)


def test_every_module_of_the_package_defines_a_family() -> None:
    modules = [path.stem for path in Path(str(registry.__file__)).with_name("families").iterdir()]
    modules = [name for name in modules if not name.startswith("_")]
    assert len(families()) >= len(modules) > 10
    names = [family.name for family in families()]
    assert names == sorted(names, key=str.lower)
    assert len(set(names)) == len(names)


def test_looking_up_families_imports_no_transformers() -> None:
    code = "import sys; from sarsteer.models.family import families; families(); print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_model_is_of_its_family(tiny: AudioLanguageModel) -> None:
    assert family_of(tiny.module) is QWEN2_AUDIO
    assert family_named("NobodysModel") is None
    assert family_of(torch.nn.Linear(1, 1)) is GENERIC
    assert isinstance(make("voxtral"), Voxtral)


def test_a_registered_family_replaces_the_built_in_one() -> None:
    other = Family("other", architectures=QWEN2_AUDIO.architectures)
    register(other)
    assert family_named(QWEN2_AUDIO.architectures[0]) is other
    assert QWEN2_AUDIO not in families()
    with pytest.raises(ModelError, match="no architectures"):
        register(Family("empty"))


class EntryPoint:
    """An installed package's entry point."""

    name, value = "mine", "package.module:MINE"

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded

    def load(self) -> Any:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def installed(monkeypatch: pytest.MonkeyPatch, loaded: Any) -> None:
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [EntryPoint(loaded)] * (group == registry.GROUP)
    )


def test_installed_packages_add_families(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Family("mine", architectures=("MineForCausalLM",))
    installed(monkeypatch, mine)
    assert family_named("MineForCausalLM") is mine
    assert mine in families()


@pytest.mark.parametrize(
    ("loaded", "match"),
    [
        (object(), r"family 'mine' \(package.module:MINE\) is not a sarsteer.models.family.Family"),
        (ImportError("no module named x"), r"cannot be imported \(ImportError: no module named x\); fix or uninstall"),
    ],
)
def test_a_broken_package_is_an_error(monkeypatch: pytest.MonkeyPatch, loaded: Any, match: str) -> None:
    installed(monkeypatch, loaded)
    with pytest.raises(ModelError, match=match):
        families()


def test_the_example_of_the_docs() -> None:
    (code,) = re.findall(
        r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8").partition("model family")[2], re.DOTALL
    )[:1]
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCS), "exec"), names)
    known = tiny_qwen2_audio(seed=1)
    new_class = type("MyModelForConditionalGeneration", (transformers.Qwen2AudioForConditionalGeneration,), {})
    module = new_class(known.module.config)
    module.load_state_dict(known.module.state_dict())
    model = AudioLanguageModel(module, known.processor)
    assert type(model) is names["MyModel"]
    assert model.family is names["MY_FAMILY"]
    (prompt,) = model.prepare([conversation(0)])
    assert "You are a voice assistant." in model.tokenizer.decode(prompt.input_ids)
    with pytest.raises(AudioError, match="at most 30 s"):
        model.prepare([conversation(0, 31.0)])
    answer = model.generate([conversation(0)], 8)
    with attach(model.module, model.decoder_layers, ResolvedStrength(random_vectors(model), 2.0), model.probe):
        assert model.generate([conversation(0)], 8) != answer
