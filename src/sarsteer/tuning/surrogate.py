"""A quick stand-in for generation: how answers would begin, and whether their text would hold.

Two things are read off each request. Greedy decoding begins a refusal where a token that begins this model's refusals
leads all others: the lead, in nats, through a steep logistic, so that near misses count. And the given text, the
model's own (its undefended answer to a safe request, its own refusal to a harmful one), holds as far as no token of it
becomes much less likely than it was: steering that is too strong derails single tokens in mid-sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sarsteer.data.pairs import Pairs
from sarsteer.judges import Judge, judge_all
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.models.prompt import Prompt
from sarsteer.steering.artifact import Steering
from sarsteer.steering.handle import SteeringHandle
from sarsteer.steering.strength import ResolvedStrength
from sarsteer.tuning.continuations import Continuations, next_token_logits
from sarsteer.tuning.measure import judged
from sarsteer.tuning.references import References, Report, Requests, answer_all, hear
from sarsteer.tuning.refusal_tokens import RefusalTokens, refusal_tokens
from sarsteer.tuning.setting import Setting, own_gate
from sarsteer.tuning.space import Space

STEEPNESS = 4.0
"""Of the logistic over the refusal tokens' lead: at half a nat a refusal counts as 88 %."""
HELD_TOKENS = 16
"""Tokens of each given text that are run. Text that breaks does so within the first sentence."""


@dataclass(frozen=True)
class Scores:
    """Estimates in [0, 1] of what generation would show, from first tokens and given texts.

    Attributes:
        asr: harmful requests whose answer would not begin as a refusal.
        over_refusal: safe requests whose answer would.
        broken: requests whose text would not hold, on the path that their first token takes; 0 where the model's
            prefixes cannot be reused, so that first tokens alone are looked at.

    """

    asr: float
    over_refusal: float
    broken: float

    @property
    def cost(self) -> float:
        """What usefulness pays."""
        return self.over_refusal + self.broken


class Surrogate:
    """Scores settings of one steering on the tuning requests.

    Args:
        model: the model; not steered.
        space: the steering from the calibrating pairs, and its gates.
        requests: the tuning requests, heard.
        references: what the model says to them by itself and under the refusal prompt.
        refused: which of the ``prompted`` references are refusals, by a judge.
        batch_size: requests a forward.

    """

    def __init__(
        self,
        model: AudioLanguageModel,
        space: Space,
        requests: Requests,
        references: References,
        refused: Sequence[bool],
        batch_size: int,
    ) -> None:
        self._model, self._space, self._batch_size = model, space, batch_size
        self._prompts = [*requests.harmful, *requests.safe]
        self._n = len(requests.harmful)
        self.reuses_prefixes = model.family.prefix_reuse
        self._handle: SteeringHandle | None = None
        plain = first_token_probabilities(model, requests.harmful, batch_size)
        prompted = first_token_probabilities(model, requests.prompted, batch_size)
        self.tokens: RefusalTokens = refusal_tokens(prompted, plain)
        self._ids = torch.tensor(self.tokens.ids)
        self._texts = (
            _given_texts(references, refused) if self.reuses_prefixes else [torch.zeros(0).long()] * 2 * self._n
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

    def score(self, setting: Setting | None) -> Scores:
        """The estimates at ``setting``; None for no steering."""
        lead, likelihood = self._read(setting)
        refuses = torch.sigmoid(STEEPNESS * lead)
        broken = torch.zeros_like(refuses)
        if likelihood is not None and self._unsteered is not None:
            # the first token is the choice between the paths; the text is what comes after it
            lost = (likelihood - self._unsteered)[:, 1:].clamp(max=0)
            breaks = 1 - (lost.min(1).values.exp() if lost.shape[1] else torch.ones_like(refuses))
            path = torch.cat([refuses[: self._n], 1 - refuses[self._n :]])
            broken = path * breaks
        return Scores(
            asr=float((1 - refuses[: self._n]).mean()),
            over_refusal=float(refuses[self._n :].mean()),
            broken=float(broken.mean()),
        )

    def agreement(self, references: References) -> float:
        """Share of the undefended answers whose first token is the one that this way of computing finds likeliest."""
        said = [*references.harmful.tokens, *references.safe.tokens]
        likeliest = first_token_probabilities(self._model, self._prompts, self._batch_size).argmax(1).tolist()
        return sum(a[:1] == (b,) for a, b in zip(said, likeliest, strict=True)) / len(said)

    def _read(self, setting: Setting | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The refusal tokens' lead ``[n]``, and log-likelihoods of the given tokens ``[n, M]``, 0 beyond each text."""
        if not self.reuses_prefixes:
            return self._read_prefills(setting), None
        lead = torch.zeros(len(self._prompts))
        longest = max(len(text) for text in self._texts)
        likelihood = torch.zeros(len(self._prompts), longest)
        deltas = None if setting is None else setting.alpha * setting.vectors(self._space.steering)
        for rows, logits in self._continuations.run(deltas, self._openings(setting)):
            lead[rows] = self._lead(logits[:, 0])
            logs = logits.log_softmax(-1).cpu()
            for place, i in enumerate(rows):
                text = self._texts[i]
                likelihood[i, : len(text)] = logs[place, : len(text)].gather(1, text[:, None])[:, 0]
        return lead, likelihood

    def _openings(self, setting: Setting | None) -> torch.Tensor | None:
        """How far the gate opens for each request ``[n]``; None with no gate.

        It decides on activations that no steering reaches: they are taken once.
        """
        gate = None if setting is None else setting.gate(self._space.gates)
        if gate is None:
            return None
        if self._gate_inputs is None:
            self._gate_inputs = self._model.last_token_activations(self._prompts, batch_size=self._batch_size)
        return gate.strength(self._gate_inputs[:, gate.layer])

    def _read_prefills(self, setting: Setting | None) -> torch.Tensor:
        """The lead by whole prefills under the hooks that answers get: any family, first tokens only."""
        if self._handle is None and setting is not None:
            self._handle = self._space.steering.attach(self._model, 0.0, 0, gate=False)
        if self._handle is not None:
            if setting is None:
                self._handle.suspend()
            else:
                vectors = setting.vectors(self._space.steering)
                self._handle.apply(ResolvedStrength(vectors, setting.alpha, setting.gate(self._space.gates)))
        lead = torch.zeros(len(self._prompts))
        for rows, logits in first_token_logits(self._model, self._prompts, self._batch_size):
            lead[rows] = self._lead(logits)
        return lead

    def _lead(self, logits: torch.Tensor) -> torch.Tensor:
        """How far the likeliest refusal token leads the likeliest other, in nats: ``[B]``."""
        ids = self._ids.to(logits.device)
        refusing = logits[:, ids].max(1).values
        others = logits.index_fill(1, ids, -torch.inf).max(1).values
        return (refusing - others).cpu()


def first_token_logits(
    model: AudioLanguageModel, prompts: Sequence[Prompt], batch_size: int
) -> list[tuple[list[int], torch.Tensor]]:
    """Logits ``[B, V]`` of each batch's first answer tokens, by prefills alone; steered where steering is attached."""
    found = []
    with torch.no_grad():
        for rows in model.batches(list(prompts), batch_size):
            out = model.forward_base(model.collate([prompts[i] for i in rows]))
            found.append((rows, next_token_logits(model, out.last_hidden_state[:, -1])))
    return found


def first_token_probabilities(model: AudioLanguageModel, prompts: Sequence[Prompt], batch_size: int) -> torch.Tensor:
    """``[n, V]``, in the order of the prompts."""
    batches = first_token_logits(model, prompts, batch_size)
    out = torch.empty(len(prompts), batches[0][1].shape[-1])
    for rows, logits in batches:
        out[rows] = logits.softmax(-1).cpu()
    return out


def _given_texts(references: References, refused: Sequence[bool]) -> list[torch.Tensor]:
    """Harmful requests' own refusals, then safe ones' own answers; where none was refused, another's, or nothing."""
    some = next((text for text, no in zip(references.prompted.tokens, refused, strict=True) if no), ())
    refusals = [text if no else some for text, no in zip(references.prompted.tokens, refused, strict=True)]
    return [torch.tensor(text[:HELD_TOKENS], dtype=torch.long) for text in (*refusals, *references.safe.tokens)]


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
    """A surrogate on ``pairs``, with all that it needs: the requests are heard, and answered without steering.

    The instruction and the refusal prompt are the steering's own.
    """
    texts = (steering.metadata["instruction"], steering.metadata["refusal_prompt"])
    requests = hear(model, pairs, *texts, batch_size, report)
    references = answer_all(model, requests, max_new_tokens, batch_size, report)
    rows = [judged(item, text) for item, text in zip(pairs.harmful, references.prompted.texts, strict=True)]
    refused = [verdict.outcome == "refused" for verdict in judge_all(judge, rows)]
    return Surrogate(model, Space(steering, gates=own_gate(steering)), requests, references, refused, batch_size)
