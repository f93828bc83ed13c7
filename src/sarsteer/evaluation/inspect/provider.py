"""The Inspect provider: ``sarsteer/MODEL``, any model of ours under any defence."""

from __future__ import annotations

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

from sarsteer.defenses import Defense, Strength, Supplies, check_specs, make_defense
from sarsteer.errors import EvaluationError, MessageError
from sarsteer.evaluation.identity import identity
from sarsteer.evaluation.inspect.errors import told_by_inspect
from sarsteer.messages import Message
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.runtime.shared import Request, SharedModel, arm, shared_model

LOADING = ("device", "dtype", "revision", "layers", "trust_remote_code", "split_long_audio")
STEERING = ("steering", "alpha", "k", "lambda_", "seed", "allow_other_model")
OWN = ("defense", *STEERING, "calibration", "calibration_judge", "cache", "batch_size")
MAX_NEW_TOKENS = 256
_UNKNOWN = ("stop_seqs", "num_choices", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "best_of")


class SarsteerAPI(ModelAPI):
    """A model of ours under one defence; models that differ in their defence alone share the loaded weights.

    Greedy unless a temperature above 0 is given. ``-M`` arguments: ``defense`` (``sarsteer`` where a steering file is
    given, else ``none``), ``steering``, ``alpha``, ``k``, ``lambda_``, ``seed``, ``calibration`` (pairs), ``cache``,
    ``batch_size``, and those of loading: ``device``, ``dtype``, ``revision``, ``layers``, ``trust_remote_code``.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        if "arm" in model_args:  # made by sarsteer evaluate, which has checked and loaded everything
            self._take(*arm(str(model_args["arm"])))
            return
        with told_by_inspect():
            self._open(model_name, model_args)

    def _open(self, model_name: str, model_args: dict[str, Any]) -> None:
        if unknown := sorted(set(model_args) - {*LOADING, *OWN}):
            raise EvaluationError(
                f"sarsteer/{model_name} takes no {', '.join(unknown)}; its arguments are {', '.join((*OWN, *LOADING))}"
            )
        loading = {name: model_args[name] for name in LOADING if model_args.get(name) is not None}
        batch_size = int(model_args.get("batch_size") or DEFAULT_BATCH)
        if batch_size < 1:
            raise EvaluationError(f"batch_size must be at least 1, not {batch_size}")
        spec = str(model_args.get("defense") or ("sarsteer" if model_args.get("steering") else "none"))
        check_specs(
            [spec], steering=bool(model_args.get("steering")), pairs=bool(model_args.get("calibration"))
        )  # before minutes of loading
        shared = shared_model(model_name, loading, batch_size)
        shared.batch_size = batch_size
        self._take(shared, make_defense(spec, shared.model, _supplies(model_args, batch_size)))

    def _take(self, shared: SharedModel, defense: Defense) -> None:
        self.shared = shared
        self.defense = defense
        self._logged = {
            "model": identity(shared.model),
            "defense": defense.name,
            "settings": dict(defense.settings),
            "steering": defense.steering,
        }

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer one conversation, in a batch with others that are asked for meanwhile."""
        if tools:
            raise EvaluationError(f"sarsteer/{self.model_name} calls no tools; use a task without them")
        max_new_tokens = config.max_tokens or MAX_NEW_TOKENS
        generation = _generation(config)
        reply = await self.shared.ask(Request(conversation_of(input), self.defense, max_new_tokens, generation))
        output = ModelOutput.from_content(self.model_name, reply.text)
        decoding = {"max_new_tokens": max_new_tokens, **(generation or {"do_sample": False})}
        output.metadata = {**self._logged, "decoding": decoding, **reply.details}
        return output

    def max_connections(self) -> int:
        """Two batches: one is gathered while the other is answered or judged."""
        return 2 * self.shared.batch_size

    def connection_key(self) -> str:
        """One queue for all defences of a model."""
        return f"sarsteer/{self.model_name}"

    def max_tokens(self) -> int | None:
        """The longest answer, in tokens, unless a task says otherwise."""
        return MAX_NEW_TOKENS


def conversation_of(messages: list[ChatMessage]) -> list[Message]:
    """Inspect's messages as ours. Clips arrive as data URIs, whatever they were in the task."""
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
            raise MessageError(f"content of type {part.type!r} cannot be given to an audio-language model")
    return parts


def _generation(config: GenerateConfig) -> dict[str, Any]:
    given = [name for name in _UNKNOWN if getattr(config, name, None) not in (None, 1, 0, [], {})]
    if given:
        raise EvaluationError(f"sarsteer models take no {', '.join(given)}; leave it out")
    if not config.temperature:
        return {}
    names = ("temperature", "top_p", "top_k")
    return {"do_sample": True, **{n: getattr(config, n) for n in names if getattr(config, n) is not None}}


def _supplies(given: dict[str, Any], batch_size: int) -> Supplies:
    from sarsteer.data.pairs import load_pairs
    from sarsteer.judges import make_judge
    from sarsteer.steering.artifact import Steering

    judge = given.get("calibration_judge")
    return Supplies(
        steering=Steering.from_pretrained(given["steering"]) if given.get("steering") else None,
        pairs=load_pairs(given["calibration"]) if given.get("calibration") else None,
        judge=make_judge(judge) if judge else None,
        cache=Path(given["cache"]) if given.get("cache") else None,
        strength=Strength(
            alpha=_number(given, "alpha", float),
            k=_number(given, "k", int),
            lambda_=_number(given, "lambda_", float),
            seed=_number(given, "seed", int) or 0,
        ),
        allow_other_model=bool(given.get("allow_other_model")),
        batch_size=batch_size,
    )


def _number(given: dict[str, Any], name: str, kind: type[float] | type[int]) -> Any:
    try:
        return None if given.get(name) is None else kind(given[name])
    except (TypeError, ValueError):
        raise EvaluationError(f"{name} must be a number, not {given[name]!r}") from None
