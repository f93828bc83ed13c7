"""Make audio-language models refuse harmful spoken requests and still answer the rest, without retraining.

import sarsteer

model = sarsteer.load_model("sarsteer-tiny")
steering = sarsteer.calibrate(model, sarsteer.load_pairs("sarsteer-tiny"))
with steering.on(model, alpha=0.1):
    print(model.generate([sarsteer.user_turn("clip.wav", "Answer the question.")]))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sarsteer.data.pairs import load_pairs
    from sarsteer.errors import SarsteerError
    from sarsteer.messages import user_turn
    from sarsteer.models.api.model import ApiModel
    from sarsteer.models.audio_language_model import AudioLanguageModel
    from sarsteer.models.layers import find_decoder_layers
    from sarsteer.models.loading import load_model
    from sarsteer.models.packaged import export_model
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.calibration import calibrate
    from sarsteer.steering.gate.gate import Gate
    from sarsteer.steering.handle import SteeringHandle

__version__ = "0.1.0"

# Names load on first use: `import sarsteer` itself imports neither torch nor transformers.
_HOMES = {
    "ApiModel": "sarsteer.models.api.model",
    "AudioLanguageModel": "sarsteer.models.audio_language_model",
    "Gate": "sarsteer.steering.gate.gate",
    "SarsteerError": "sarsteer.errors",
    "Steering": "sarsteer.steering.artifact",
    "SteeringHandle": "sarsteer.steering.handle",
    "calibrate": "sarsteer.steering.calibration",
    "export_model": "sarsteer.models.packaged",
    "find_decoder_layers": "sarsteer.models.layers",
    "load_model": "sarsteer.models.loading",
    "load_pairs": "sarsteer.data.pairs",
    "user_turn": "sarsteer.messages",
}

__all__ = [
    "ApiModel",
    "AudioLanguageModel",
    "Gate",
    "SarsteerError",
    "Steering",
    "SteeringHandle",
    "__version__",
    "calibrate",
    "export_model",
    "find_decoder_layers",
    "load_model",
    "load_pairs",
    "user_turn",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sarsteer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
