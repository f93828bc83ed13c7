"""Benchmarks as Inspect tasks: ``inspect eval sarsteer/figstep -T folder=... --model sarsteer/MODEL``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    Content,
    ContentAudio,
    ContentImage,
    ContentText,
    ContentVideo,
    GenerateConfig,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver

from sarsteer.data.benchmarks import BENCHMARKS
from sarsteer.data.manifest import Item
from sarsteer.errors import EvaluationError
from sarsteer.evaluation.inspect.prerequisite import prerequisite_errors
from sarsteer.evaluation.inspect.scorers import judged

if TYPE_CHECKING:
    from sarsteer.data.benchmarks import LoadedBenchmark

MAX_NEW_TOKENS = 256


def build_task(
    benchmark: LoadedBenchmark,
    judge: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    *,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Task:
    """A task that asks every request of a benchmark once, and judges each answer at once.

    Raises:
        JudgeError: the judge is unknown.
        EvaluationError: Inspect cannot carry a request.

    """
    from sarsteer.evaluation.inspect.process import shared_judge

    spec = judge or benchmark.judge
    about = {"benchmark": benchmark.name, "benchmark_digest": benchmark.digest, **benchmark.about}
    return Task(
        dataset=MemoryDataset([sample_of(benchmark, item) for item in benchmark.by_length], name=benchmark.name),
        solver=[answer(spec)],
        scorer=judged(spec),
        name=name,
        metadata={**about, "judge": spec, "judge_signature": shared_judge(spec).judge.signature, **(metadata or {})},
        config=GenerateConfig(max_tokens=max_new_tokens),
    )


def sample_of(benchmark: LoadedBenchmark, item: Item) -> Sample:
    """One request. Its label is only in the metadata, which neither the model nor the judge sees."""
    text = benchmark.text(item)
    content: list[Content] = [_media(item), ContentText(text=text)] if item.media else []
    if not content:
        content = [ContentText(text=f"{item.question}\n{text}")]
    metadata = {
        "label": item.label,
        "question": item.question,
        "category": item.category,
        "pair": item.pair,
        "cluster": item.extra.get("cluster"),
        "description": item.extra.get("description"),
        "audio": str(item.media) if item.modality == "audio" else None,
        "text": text,
    }
    return Sample(
        id=item.id,
        input=[*_earlier(item), ChatMessageUser(content=content)],
        target=item.answer or "",
        metadata={key: value for key, value in metadata.items() if value is not None},
    )


def _earlier(item: Item) -> list[ChatMessage]:
    return [
        ChatMessageUser(content=message["content"])
        if message["role"] == "user"
        else ChatMessageAssistant(content=message["content"])
        for message in item.earlier
    ]


def _media(item: Item) -> Content:
    path = str(item.media)
    if item.modality == "audio":  # the format is only a label: decoders look at the bytes
        return ContentAudio(audio=path, format="mp3" if path.lower().endswith(".mp3") else "wav")
    if item.modality == "image":
        return ContentImage(image=path)
    if item.modality == "video":
        return ContentVideo(video=path, format="mp4")
    raise EvaluationError(f"item {item.id!r} is {item.modality}, which Inspect cannot carry; leave it out")


@solver
def answer(judge: str) -> Solver:
    """Ask the model, unless the judge has stopped: an answer that cannot be judged is not needed."""
    from sarsteer.evaluation.inspect.process import shared_judge

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        shared_judge(judge).check()
        for message in state.messages:
            if isinstance(message.content, list):
                message.content = [playable(part) for part in message.content]
        return await generate(state)

    return solve


def playable(part: Content) -> Content:
    """A clip that ``inspect view`` shows with a player: it plays what is labeled WAV or MP3, and shows others as text.

    Only the data URI's label changes. Browsers and our decoder look at the bytes, as the HTML standard requires. Ogg
    converted to WAV would be thirty times as large, or a different sound.
    """
    if isinstance(part, ContentAudio) and part.audio.startswith("data:"):
        label, _, rest = part.audio.partition(";")
        if label not in ("data:audio/wav", "data:audio/x-wav", "data:audio/mpeg", "data:audio/mp3"):
            return part.model_copy(update={"audio": f"data:audio/wav;{rest}", "format": "wav"})
    return part


def _register(name: str) -> Any:
    def create(
        folder: str | None = None,
        split: str | None = None,
        variant: str | None = None,
        limit: int | None = None,
        judge: str | None = None,
        instruction: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Task:
        from sarsteer.data.benchmarks import load_benchmark
        from sarsteer.evaluation.judge_choice import choose_judges, parse_judges

        with prerequisite_errors():
            benchmark = load_benchmark(
                name, folder=folder, split=split, variant=variant, limit=limit, instruction=instruction
            )
            choices = parse_judges([judge] if judge else [])
            return build_task(benchmark, choose_judges([benchmark], choices)[benchmark.name].spec, max_new_tokens)

    create.__name__ = name
    create.__doc__ = f"``{name}``: its folder, split, variant, limit, judge, instruction, max_new_tokens."
    return task(create)


TASKS = {name: _register(name) for name in BENCHMARKS.names()}
"""A task for each benchmark."""
