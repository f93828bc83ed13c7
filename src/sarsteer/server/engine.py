"""The steered model: it proves the steering, and answers batches of requests.

Everything here runs on one thread, except that prompts of requests that will join are prepared in another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from sarsteer.errors import AudioError, MessageError, ModelError, SteeringError
from sarsteer.messages import Conversation
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.layers import generating_part, text_config, unwrap
from sarsteer.models.prompt import Prompt
from sarsteer.runtime.memory import is_out_of_memory
from sarsteer.server.decoding import Decoding, can_join, groups, prove
from sarsteer.server.errors import ApiError
from sarsteer.server.job import Job, Row
from sarsteer.server.preparation import Preparation
from sarsteer.server.progress import Progress
from sarsteer.server.sampling import ChosenTokens
from sarsteer.server.tenant import Tenant
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.rows import RowSteering
from sarsteer.steering.strength import ResolvedStrength

log = logging.getLogger(__name__)

Entry = tuple[Row, Prompt]
More = Callable[[int], Sequence[Job]]


class Engine:
    """A model that answers only with proven steering.

    Args:
        model: the model.
        batch: the largest number of answers at once.
        flush: called after each step of a batch, when its events have been reported.
        allow_other_model: steer a model other than the calibrated one, such as a quantized copy.

    Raises:
        ModelError: the model has a decoding loop of its own.

    """

    def __init__(
        self, model: AudioLanguageModel, batch: int, flush: Callable[[], None], *, allow_other_model: bool = False
    ) -> None:
        if model.probe is not None:
            raise ModelError(f"{model.name} has its own decoding loop, which cannot be served; use it in Python")
        self.model = model
        # a family with its own generate_tokens may run the rows of a batch one after another
        own_loop = type(model).generate_tokens is not AudioLanguageModel.generate_tokens
        self.batch = 1 if own_loop else batch
        self._flush, self._allow_other_model = flush, allow_other_model
        self._handle: SteeringHandle | None = None
        self._proven = 0  # installation of hooks whose steering of rows and of `Decoding` is proven
        self.joins = can_join(model)
        """Whether requests can join others that are being answered; otherwise they form batches."""
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="sarsteer-prompts")
        self.mixes = self.batch > 1
        """Whether requests of one gate that are steered differently can share a batch."""
        self.context: int | None = getattr(text_config(unwrap(model.module)), "max_position_embeddings", None)

    # ---- steering ------------------------------------------------------------------------------------------------

    def prove(self, tenants: Sequence[Tenant]) -> None:
        """Steer with every tenant's strength once, so that each is known to work.

        Raises:
            ArtifactError: a steering file belongs to another model.
            SteeringError: the model would not be steered exactly.

        """
        for tenant in tenants:
            tenant.steering.check_model(self.model.fingerprint, allow_other_model=self._allow_other_model)
        # with gate hooks from the start, a change between gated and other tenants needs no new hooks
        for tenant in sorted(tenants, key=lambda one: one.applied.gate is None):
            self._steer(tenant.applied)

    def prove_again(self, tenants: Sequence[Tenant]) -> None:
        """Remove the steering, attach it again, and prove it."""
        self.detach()
        self.prove(tenants)

    def key(self, tenant: Tenant) -> Hashable:
        """Equal for tenants whose requests can share a batch."""
        return tenant.gate_key if self.mixes else tenant.strength_key

    def detach(self) -> None:
        """Remove the steering. The next answer attaches and proves it again."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _steer(self, strength: ResolvedStrength) -> SteeringHandle:
        """Steer by ``strength`` from now on.

        Raises:
            SteeringError: it is not in force; nothing may be answered.

        """
        if self._handle is None:
            self._handle, self._proven = attach(self.model.module, self.model.decoder_layers, strength), 0
        elif self._handle.strength is not strength:
            self._handle.apply(strength)
        handle = self._handle
        if handle.installations != self._proven:  # `attach` and `apply` have proven `generate`
            if self.mixes:
                handle.prove_rows()
            if self.joins and not prove(self.model, handle):
                self.joins = False
                log.warning("%s computes other logits in `generate`: requests form batches", self.model.name)
            self._proven = handle.installations
        if handle.strength is not strength:
            raise SteeringError("the model's steering is not the tenant's; nothing was answered")
        with handle.by_row() as steering:
            self._check(handle, steering)
        return handle

    def _check(self, handle: SteeringHandle, steering: RowSteering) -> None:
        """Raise ``SteeringError`` unless the hooks add what was chosen."""
        if not handle.attached or not steering.holds:
            raise SteeringError("the model's steering is not the tenant's; nothing was answered")

    # ---- answers -------------------------------------------------------------------------------------------------

    def answer(self, jobs: Sequence[Job], more: More = lambda free: []) -> None:
        """Answer jobs of tenants with equal keys, and report to each; errors of one job do not reach the others.

        Args:
            jobs: the first jobs.
            more: returns jobs with the same key that join while others are answered, for a number of free rows.
                Not called for models whose rows cannot join (``joins``).

        Raises:
            SteeringError: the model would not be steered exactly. Jobs without an answer were not reported to.

        """
        handle = self._steer(jobs[0].tenant.applied)
        if self.joins:
            self._decode_all(handle, self._rows_of(jobs), more)
        else:
            entries = self._rows_of(jobs)
            for batch in self.model.batches([prompt for _, prompt in entries], self.batch):
                self._generate(handle, [entries[i] for i in batch])
        self._flush()

    def activations(self, tenant: Tenant, conversation: Conversation) -> torch.Tensor:
        """The output of every decoder layer at the last prompt token, steered as for ``tenant``: ``[L, D]``.

        Raises:
            AudioError, MessageError: the conversation is invalid.
            SteeringError: the model would not be steered exactly.

        """
        self._steer(tenant.applied)
        return self.model.last_token_activations([conversation])[0]

    def _rows_of(self, jobs: Sequence[Job]) -> list[Entry]:
        return [(row, prompt) for job, prompt in self._prepared(list(jobs)) for row in job.rows(self._decode)]

    def _decode_all(self, handle: SteeringHandle, waiting: list[Entry], more: More) -> None:
        """Answer rows, and those that join, until none is left. If memory runs out, answer the rest in batches."""
        live: list[Entry] = []
        with Preparation(self._preparing, self._rows_of) as preparation:
            try:
                self._decode_joining(handle, live, waiting, more, preparation)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return
            waiting += preparation.take(wait=True)
        for row, _ in live:
            if not row.done and row.published:
                row.job.fail(_out_of_memory())
        left = [(row.again(self._decode), prompt) for row, prompt in live if not row.done] + waiting
        for batch in self.model.batches([prompt for _, prompt in left], max(1, self.batch // 2)):
            self._generate(handle, [left[i] for i in batch])

    def _decode_joining(
        self,
        handle: SteeringHandle,
        live: list[Entry],
        waiting: list[Entry],
        more: More,
        preparation: Preparation[Job, Entry],
    ) -> None:
        """Answer rows until none is left; ``live`` and ``waiting`` are updated in place."""
        ends = self._ends(self.model.generation_options({}))
        with handle.by_row() as steering:
            decoding = Decoding(self.model, handle, self.batch, ends, steering)
            while True:
                if not waiting and decoding.free and not preparation.busy:
                    preparation.start(more(decoding.free))
                if not waiting:
                    waiting += preparation.take(wait=not len(decoding))
                room = [entry for entry in waiting[: decoding.free] if not entry[0].done]
                live[:] = [entry for entry in live if not entry[0].done] + room
                del waiting[: decoding.free]
                if room:
                    self._check(handle, steering)
                for group in groups([prompt for _, prompt in room], self.model.device):
                    decoding.join([room[i][0] for i in group], [room[i][1] for i in group])
                    self._flush()
                if len(decoding):
                    decoding.step()
                    self._flush()
                elif not waiting and not preparation.busy:
                    return

    def _prepared(self, jobs: list[Job]) -> list[tuple[Job, Prompt]]:
        """The jobs whose prompts can be written, with them; the others have failed."""
        while jobs:
            try:
                prompts = self.model.prepare([job.conversation for job in jobs])
                break
            except (MessageError, AudioError) as error:
                if error.index is None:
                    raise
                jobs.pop(error.index).fail(error)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(jobs) == 1:
                    jobs.pop().fail(_out_of_memory())
                    break
                middle = len(jobs) // 2
                return self._prepared(jobs[:middle]) + self._prepared(jobs[middle:])
        return [
            (job, prompt) for job, prompt in zip(jobs, prompts if jobs else (), strict=True) if self._fits(job, prompt)
        ]

    def _fits(self, job: Job, prompt: Prompt) -> bool:
        """Whether prompt and answer fit into the model's context."""
        length = len(prompt.input_ids)
        room = job.max_tokens if self.context is None else self.context - length
        if room < (job.max_tokens if job.exact else 1):
            job.fail(
                ApiError(
                    400,
                    f"the prompt has {length} tokens, the answer at most {job.max_tokens}, and the model's context "
                    f"{self.context}; shorten the messages or lower max_tokens",
                    code="context_length_exceeded",
                    param="messages",
                )
            )
            return False
        job.max_tokens = min(job.max_tokens, room)
        return True

    def _generate(self, handle: SteeringHandle, entries: list[Entry]) -> None:
        """Answer one batch. If memory runs out, answer each half, until only what does not fit alone fails."""
        rows = [row for row, _ in entries]
        if all(row.done for row in rows):
            return
        try:
            self._generate_batch(handle, rows, [prompt for _, prompt in entries])
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if len(rows) == 1 or any(row.published for row in rows):
            for row in rows:
                if row.reason is None:
                    row.job.fail(_out_of_memory())
            return
        middle = len(rows) // 2
        for part in (slice(None, middle), slice(middle, None)):
            again = [(row if row.reason is not None else row.again(self._decode), p) for row, p in entries[part]]
            self._generate(handle, again)

    @torch.no_grad()
    def _generate_batch(self, handle: SteeringHandle, rows: list[Row], prompts: list[Prompt]) -> None:
        options = self.model.generation_options({"num_beams": 1})
        progress = Progress(
            handle, rows, [len(prompt.input_ids) for prompt in prompts], self._ends(options), self._flush
        )
        with handle.by_row() as steering:
            steering.use([row.job.tenant.applied for row in rows])
            self.model.generate_tokens(
                self.model.collate(prompts),
                max_new_tokens=max(row.job.max_tokens for row in rows),
                logits_processor=LogitsProcessorList([ChosenTokens([row.sampler for row in rows])]),
                stopping_criteria=StoppingCriteriaList([progress]),
                **options,
            )

    def _ends(self, options: dict[str, Any]) -> frozenset[int]:
        """The tokens that end an answer."""
        config = getattr(generating_part(self.model.module), "generation_config", None)
        given = options.get("eos_token_id", getattr(config, "eos_token_id", None))
        return frozenset([given] if isinstance(given, int) else given or ())

    def _decode(self, tokens: list[int]) -> str:
        return self.model.decode(torch.tensor([tokens]))[0]


def _out_of_memory() -> ApiError:
    return ApiError(503, "the request needs more memory than is free; shorten it, or try again", code="out_of_memory")
