"""A fast estimate of generation: how answers would start, and whether their text would break.

Two numbers are computed for each request. Greedy decoding starts a refusal if a token that starts this model's refusals
leads all others: the lead in nats goes through a steep logistic function, so that near misses count. The reference text
(the model's undefended answer to a safe request, its refusal of a harmful one) breaks as far as one of its tokens
becomes much less likely: steering that is too strong derails single tokens in mid-sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sarsteer.data.pairs import Pairs
from sarsteer.judges import Judge, judge_all
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.models.prompt import Prompt
from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.strength import ResolvedStrength
from sarsteer.tuning.config import SurrogateConfig
from sarsteer.tuning.configuration import Configuration, own_gate
from sarsteer.tuning.continuations import Continuations, next_token_logits
from sarsteer.tuning.measure import judged
from sarsteer.tuning.references import References, Report, Requests, answer_all, prepare_requests
from sarsteer.tuning.refusal_tokens import RefusalTokens, refusal_tokens
from sarsteer.tuning.scores import SurrogateScores
from sarsteer.tuning.space import Space


class Surrogate:
    """Scores configurations of one steering on the tuning requests.

    Args:
        model: the model, unsteered.
        space: the steering of the calibration part, and its gates.
        requests: the tuning requests.
        references: the model's answers to them, undefended and with the refusal prompt.
        refused: which of the ``prompted`` references are refusals according to a judge.
        batch_size: requests per forward.
        config: see ``default.toml``; defaults if None.

    """

    def __init__(
        self,
        model: AudioLanguageModel,
        space: Space,
        requests: Requests,
        references: References,
        refused: Sequence[bool],
        batch_size: int,
        config: SurrogateConfig | None = None,
    ) -> None:
        self._model, self._space, self._batch_size = model, space, batch_size
        self._config = config or SurrogateConfig()
        self._prompts = [*requests.harmful, *requests.safe]
        self._n = len(requests.harmful)
        self.reuses_prefixes = model.shares_prefixes(self._prompts)
        self._handle: SteeringHandle | None = None
        plain = first_token_probabilities(model, requests.harmful, batch_size)
        prompted = first_token_probabilities(model, requests.prompted, batch_size)
        self.tokens: RefusalTokens = refusal_tokens(prompted, plain)
        self._ids = torch.tensor(self.tokens.ids)
        self._texts = (
            _reference_texts(references, refused, self._config.text_tokens)
            if self.reuses_prefixes
            else [torch.zeros(0).long()] * 2 * self._n
        )
        self._continuations = Continuations(model, self._prompts, self._texts, batch_size)
        self._gate_inputs: torch.Tensor | None = None
        self._unsteered: torch.Tensor | None = None
        if self.reuses_prefixes:
            _, self._unsteered = self._read(None)

    def __enter__(self) -> Surrogate:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def score(self, configuration: Configuration | None) -> SurrogateScores:
        """The estimates for ``configuration``; None for no steering."""
        lead, likelihood = self._read(configuration)
        refuses = torch.sigmoid(self._config.steepness * lead)
        broken = torch.zeros_like(refuses)
        if likelihood is not None and self._unsteered is not None:
            # the first token chooses the path, and the text is what follows it
            lost = (likelihood - self._unsteered)[:, 1:].clamp(max=0)
            breaks = 1 - (lost.min(1).values.exp() if lost.shape[1] else torch.ones_like(refuses))
            path = torch.cat([refuses[: self._n], 1 - refuses[self._n :]])
            broken = path * breaks
        return SurrogateScores(
            asr=float((1 - refuses[: self._n]).mean()),
            over_refusal=float(refuses[self._n :].mean()),
            broken=float(broken.mean()),
        )

    def agreement(self, references: References) -> float:
        """Share of the undefended answers whose first token is the most likely one in a prefill."""
        answers = [*references.harmful.tokens, *references.safe.tokens]
        likeliest = first_token_probabilities(self._model, self._prompts, self._batch_size).argmax(1).tolist()
        return sum(a[:1] == (b,) for a, b in zip(answers, likeliest, strict=True)) / len(answers)

    def _read(self, configuration: Configuration | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The refusal tokens' lead ``[n]``, and the texts' log-likelihoods ``[n, M]``, 0 after the end of a text."""
        strength = None if configuration is None else configuration.resolve(self._space.steering, self._space.gates)
        if not self.reuses_prefixes:
            return self._read_prefills(strength), None
        lead = torch.zeros(len(self._prompts))
        longest = max(len(text) for text in self._texts)
        likelihood = torch.zeros(len(self._prompts), longest)
        deltas, openings = None, None
        if strength is not None:
            deltas, openings = strength.deltas, self._openings(strength.gate)
        for rows, logits in self._continuations.run(deltas, openings):
            lead[rows] = self._lead(logits[:, 0])
            logs = logits.log_softmax(-1).cpu()
            for place, i in enumerate(rows):
                text = self._texts[i]
                likelihood[i, : len(text)] = logs[place, : len(text)].gather(1, text[:, None])[:, 0]
        return lead, likelihood

    def _openings(self, gate: Gate | None) -> torch.Tensor | None:
        """How far the gate opens for each request ``[n]``; None without a gate.

        It decides on activations that steering does not change, so they are computed once.
        """
        if gate is None:
            return None
        if self._gate_inputs is None:
            self._gate_inputs = self._model.last_token_activations(self._prompts, batch_size=self._batch_size)
        return gate.strength(self._gate_inputs)

    def _read_prefills(self, strength: ResolvedStrength | None) -> torch.Tensor:
        """The lead from whole prefills under the same hooks as answers: for any family, first tokens only."""
        if self._handle is None and strength is not None:
            self._handle = attach(self._model.module, self._model.decoder_layers, strength, self._model.probe)
        elif self._handle is not None and strength is not None:
            self._handle.apply(strength)
        elif self._handle is not None:
            self._handle.suspend()
        lead = torch.zeros(len(self._prompts))
        for rows, logits in first_token_logits(self._model, self._prompts, self._batch_size):
            lead[rows] = self._lead(logits)
        return lead

    def _lead(self, logits: torch.Tensor) -> torch.Tensor:
        """How far the most likely refusal token leads the most likely other token, in nats: ``[B]``."""
        ids = self._ids.to(logits.device)
        refusing = logits[:, ids].max(1).values
        others = logits.index_fill(1, ids, -torch.inf).max(1).values
        return (refusing - others).cpu()


def first_token_logits(
    model: AudioLanguageModel, prompts: Sequence[Prompt], batch_size: int
) -> list[tuple[list[int], torch.Tensor]]:
    """Logits ``[B, V]`` of each batch's first answer tokens, from prefills; steered if steering is attached."""
    batches = []
    with torch.no_grad():
        for rows in model.batches(list(prompts), batch_size):
            out = model.forward_base(model.collate([prompts[i] for i in rows]))
            batches.append((rows, next_token_logits(model, out.last_hidden_state[:, -1])))
    return batches


def first_token_probabilities(model: AudioLanguageModel, prompts: Sequence[Prompt], batch_size: int) -> torch.Tensor:
    """First-token probabilities ``[n, V]``, in the order of the prompts."""
    batches = first_token_logits(model, prompts, batch_size)
    out = torch.empty(len(prompts), batches[0][1].shape[-1])
    for rows, logits in batches:
        out[rows] = logits.softmax(-1).cpu()
    return out


def _reference_texts(references: References, refused: Sequence[bool], count: int) -> list[torch.Tensor]:
    """``count`` tokens of each text: the refusals of harmful requests, then the answers to safe ones.

    A harmful request that was not refused gets the refusal of another one, or no text.
    """
    texts = references.prompted.tokens
    first = next((text for text, is_refusal in zip(texts, refused, strict=True) if is_refusal), ())
    refusals = [text if is_refusal else first for text, is_refusal in zip(texts, refused, strict=True)]
    return [torch.tensor(text[:count], dtype=torch.long) for text in (*refusals, *references.safe.tokens)]


def prepare(
    model: AudioLanguageModel,
    steering: Steering,
    pairs: Pairs,
    judge: Judge,
    *,
    max_new_tokens: int = 64,
    batch_size: int = DEFAULT_BATCH,
    report: Report = lambda *_: None,
) -> Surrogate:
    """A surrogate on ``pairs``: prepares the requests and answers them unsteered.

    The instruction and the refusal prompt are those of the steering.
    """
    texts = (steering.metadata["instruction"], steering.metadata["refusal_prompt"])
    requests = prepare_requests(model, pairs, *texts, batch_size, report)
    references = answer_all(model, requests, max_new_tokens, batch_size, report)
    rows = [judged(item, text) for item, text in zip(pairs.harmful, references.prompted.texts, strict=True)]
    refused = [verdict.outcome == "refused" for verdict in judge_all(judge, rows)]
    return Surrogate(model, Space(steering, gates=own_gate(steering)), requests, references, refused, batch_size)
