"""The Inspect provider ``sarsteer/MODEL``: any model of this package under any defense."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ContentAudio,
    ContentImage,
    ContentText,
    ContentVideo,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from sarsteer.defenses import DEFENSES, BuiltDefense, DefenseContext, Requirement, build_defense
from sarsteer.errors import EvaluationError, MessageError
from sarsteer.evaluation.inspect import process
from sarsteer.evaluation.inspect.prerequisite import prerequisite_errors
from sarsteer.messages import Message
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.runtime.shared import Request, SharedModel

LOADING = ("device", "dtype", "revision", "layers", "trust_remote_code", "split_long_audio")
MAX_NEW_TOKENS = 256
_UNSUPPORTED = ("stop_seqs", "num_choices", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "best_of")


class SarsteerAPI(ModelAPI):
    """A model under one defense. Models that differ only in their defense share the loaded weights.

    Decoding is greedy unless the temperature is above 0. ``-M`` arguments: the fields of ``DefenseArguments``, and how
    to load the model: ``device``, ``dtype``, ``revision``, ``layers``, ``trust_remote_code``, ``split_long_audio``.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's signature
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        if "arm" in model_args:  # of sarsteer evaluate, which has checked and loaded everything
            self.shared, self.defense = process.arm(str(model_args["arm"]))
            self._defense_name = str(model_args["defense"])
            return
        with prerequisite_errors():
            arguments = DefenseArguments.parse(model_name, model_args)
            self._defense_name = arguments.defense
            self.shared, self.defense = arguments.open(model_name, model_args)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer one conversation, in a batch with others that are waiting."""
        if tools:
            raise EvaluationError(f"sarsteer/{self.model_name} does not call tools; use a task without tools")
        max_new_tokens = config.max_tokens or MAX_NEW_TOKENS
        generation = _generation(config)
        reply = await self.shared.ask(Request(conversation_of(input), self.defense, max_new_tokens, generation))
        output = ModelOutput.from_content(self.model_name, reply.text)
        output.metadata = {
            "model": dict(self.shared.identity),
            "defense": self._defense_name,
            "settings": dict(self.defense.settings),
            "steering": self.defense.steering,
            "decoding": {"max_new_tokens": max_new_tokens, **(generation or {"do_sample": False})},
            **reply.details,
        }
        return output

    def max_connections(self) -> int:
        """Two batches: one waits while the other is answered or judged."""
        return 2 * self.shared.batch_size

    def connection_key(self) -> str:
        """One queue for all defenses of a model."""
        return f"sarsteer/{self.model_name}"

    def max_tokens(self) -> int | None:
        """Maximum length of an answer, in tokens, unless a task sets it."""
        return MAX_NEW_TOKENS


@dataclasses.dataclass(frozen=True)
class DefenseArguments:
    """The ``-M`` arguments that choose a defense; each has the meaning of ``sarsteer evaluate``'s option.

    Attributes:
        defense: a spec; ``sarsteer`` if there is a steering file, else ``none``.
        seed: of random vectors.
        calibration: calibration pairs.
        calibration_judge: decides for c2r which requests are refused.
        cache: a folder for vectors that take long to compute.
        batch_size: requests per forward.

    """

    defense: str = "none"
    steering: str | None = None
    alpha: float | None = None
    k: int | None = None
    lambda_: float | None = None
    seed: int = 0
    allow_other_model: bool = False
    calibration: str | None = None
    calibration_judge: str | None = None
    cache: str | None = None
    batch_size: int = DEFAULT_BATCH

    @classmethod
    def parse(cls, model: str, arguments: Mapping[str, Any]) -> DefenseArguments:
        """From Inspect's arguments; those of ``LOADING`` are left to ``open``.

        Raises:
            EvaluationError: an argument is unknown, or not of its type.

        """
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(arguments) - {*LOADING, *names}):
            raise EvaluationError(
                f"sarsteer/{model} takes no {', '.join(unknown)}; its arguments are {', '.join((*names, *LOADING))}"
            )
        values = {name: arguments[name] for name in names if arguments.get(name) is not None}
        for name, number in (("alpha", float), ("k", int), ("lambda_", float), ("seed", int), ("batch_size", int)):
            try:
                values |= {name: number(values[name])} if name in values else {}
            except (TypeError, ValueError):
                raise EvaluationError(f"{name} must be a number, not {values[name]!r}") from None
        default = {"defense": "sarsteer"} if values.get("steering") else {}
        parsed = cls(**default | {name: value for name, value in values.items() if value != ""})
        if parsed.batch_size < 1:
            raise EvaluationError(f"batch_size must be at least 1, not {parsed.batch_size}")
        return parsed

    def open(self, model: str, loading: Mapping[str, Any]) -> tuple[SharedModel, BuiltDefense]:
        """Load the model and build the defense; what can be checked is checked before the model is loaded.

        Raises:
            SarsteerError: a part cannot be loaded, or does not fit.

        """
        from sarsteer.data.pairs import load_pairs
        from sarsteer.judges.registry import parse_judge
        from sarsteer.steering.artifact import Steering
        from sarsteer.steering.strength import Strength

        defense = DEFENSES.parse(self.defense)
        available = {Requirement.ACTIVATIONS}
        available |= {Requirement.STEERING} if self.steering else set()
        available |= {Requirement.PAIRS} if self.calibration else set()
        defense.check(available)
        options = {name: loading[name] for name in LOADING if loading.get(name) is not None}
        shared = process.POOL.model(model, options, self.batch_size)
        context = DefenseContext(
            shared.model,
            steering=Steering.from_pretrained(self.steering) if self.steering else None,
            pairs=load_pairs(self.calibration) if self.calibration else None,
            judge=parse_judge(self.calibration_judge) if self.calibration_judge else None,
            cache=Path(self.cache) if self.cache else None,
            strength=Strength(self.alpha, self.k, self.lambda_),
            seed=self.seed,
            batch_size=self.batch_size,
            allow_other_model=bool(self.allow_other_model),
        )
        return shared, build_defense(defense, context)


def conversation_of(messages: list[ChatMessage]) -> list[Message]:
    """Inspect's messages in this package's form. Clips arrive as data URIs, whatever they were in the task."""
    return [{"role": message.role, "content": _content(message)} for message in messages]


def _content(message: ChatMessage) -> Any:
    if isinstance(message.content, str):
        return message.content
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, ContentText):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, ContentAudio):
            parts.append({"type": "audio", "url": part.audio})
        elif isinstance(part, ContentImage):
            parts.append({"type": "image", "url": part.image})
        elif isinstance(part, ContentVideo):
            parts.append({"type": "video", "url": part.video})
        else:
            raise MessageError(f"an audio-language model cannot take content of type {part.type!r}; leave it out")
    return parts


def _generation(config: GenerateConfig) -> dict[str, Any]:
    unsupported = [name for name in _UNSUPPORTED if getattr(config, name, None) not in (None, 1, 0, [], {})]
    if unsupported:
        raise EvaluationError(f"sarsteer models do not support {', '.join(unsupported)}; leave it out")
    if not config.temperature:
        return {}
    names = ("temperature", "top_p", "top_k")
    return {"do_sample": True, **{n: getattr(config, n) for n in names if getattr(config, n) is not None}}
