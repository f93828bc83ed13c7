"""The paper's models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperModel:
    """A model of the paper.

    Attributes:
        key: its name for ``--model``.
        checkpoint: its name on the Hub.
        gigabytes: approximate size of its weights in bfloat16.
        packages: other packages that it needs: (module, how to install it).
        remote_code: whether the checkpoint contains Python code.

    """

    key: str
    checkpoint: str
    gigabytes: float
    packages: tuple[tuple[str, str], ...] = ()
    remote_code: bool = False


MODELS = {
    model.key: model
    for model in (
        PaperModel("qwen2-audio", "Qwen/Qwen2-Audio-7B-Instruct", 17),
        PaperModel(
            "kimi-audio",
            "moonshotai/Kimi-Audio-7B-Instruct",
            20,
            (
                ("kimia_infer", "install Moonshot's package from https://github.com/MoonshotAI/Kimi-Audio"),
                ("flash_attn", "pip install flash-attn --no-build-isolation"),
            ),
            remote_code=True,
        ),
        PaperModel("qwen2.5-omni", "Qwen/Qwen2.5-Omni-7B", 18),
        PaperModel("qwen3-omni", "Qwen/Qwen3-Omni-30B-A3B-Instruct", 64),
        PaperModel(
            "voxtral-mini", "mistralai/Voxtral-Mini-3B-2507", 9.5, (("mistral_common", "pip install mistral-common"),)
        ),
        PaperModel("midashenglm", "mispeech/midashenglm-7b", 17, remote_code=True),
    )
}
DEFAULT_MODELS = ("qwen2-audio", "kimi-audio")
"""The models of the paper's main table."""


def key_of(checkpoint: str) -> str | None:
    """The paper's model with this checkpoint, or with a local folder of the same name."""
    name = checkpoint.rpartition("/")[2]
    return next((key for key, model in MODELS.items() if model.checkpoint.rpartition("/")[2] == name), None)
