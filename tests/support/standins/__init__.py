"""Stand-ins for models with remote code: the same structure and the same incompatibilities."""

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
    """Modules of remote code stay imported after their folder is deleted, and would hide those of another folder."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@contextmanager
def own_remote_code(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Copy remote code to a test folder instead of the user's cache, and unload it at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.setattr(sys, "path", list(sys.path))
        _forget_remote_code()
        yield patch
    _forget_remote_code()


@contextmanager
def opened(name: str, folder: Path) -> Iterator[AudioLanguageModel]:
    """A stand-in that ``load_model`` loaded; its modules are unloaded at the end."""
    from tests.support.standins import kimi_audio, qwen_audio

    with own_remote_code(folder) as patch:
        if name == "kimi_audio":
            patch.syspath_prepend(str(kimi_audio.PACKAGE))
        checkpoint = {"qwen_audio": qwen_audio.make, "kimi_audio": kimi_audio.make}[name](
            folder / f"conformance_{name}"
        )
        yield load_model(checkpoint, device="cpu", trust_remote_code=True)
    kimi_audio.remove_package()
