"""Stand-ins for models whose code and weights are not transformers' own: same structure, same incompatibilities."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import dynamic_module_utils

from sarsteer import AudioLanguageModel, load_model

STANDINS = ("qwen_audio", "kimi_audio")


def _forget_remote_code() -> None:
    """Modules are remembered with the folder that they were copied to: they outlive it, and hide those of another."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@contextmanager
def own_remote_code(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Copy remote code to a folder of the tests, not to the user's cache, and forget it afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.setattr(sys, "path", list(sys.path))
        _forget_remote_code()
        yield patch
    _forget_remote_code()


@contextmanager
def opened(name: str, folder: Path) -> Iterator[AudioLanguageModel]:
    """A stand-in as ``load_model`` makes it; its modules are forgotten afterwards."""
    from tests.support.standins import kimi_audio, qwen_audio

    with own_remote_code(folder) as patch:
        if name == "kimi_audio":
            patch.syspath_prepend(str(kimi_audio.PACKAGE))
        made = {"qwen_audio": qwen_audio.make, "kimi_audio": kimi_audio.make}[name](folder / f"conformance_{name}")
        yield load_model(made, device="cpu", trust_remote_code=True)
    kimi_audio.remove_package()
