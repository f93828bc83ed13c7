"""Shuffled labels: the control that shows what the same calibration finds where there is nothing to find."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sarsteer.defenses.base import DefenseContext, Requirement
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.control import DIRECTIONS, Control, check_directions
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.vector_cache import cached_vectors
from sarsteer.registry import option

if TYPE_CHECKING:
    import torch

    from sarsteer.data.pairs import Pairs


@dataclass(frozen=True)
class ShuffledLabels(Control):
    """A control: the calibration with shuffled labels, scaled to SARSteer's norms.

    For half of the pairs, drawn at random, the activations with and without the refusal prompt change places. What all
    pairs share cancels out, and the rest is ablated and weighted as usual.
    """

    name: ClassVar[str] = "shuffled"
    requires: ClassVar[frozenset[Requirement]] = ArtifactDefense.requires | {Requirement.PAIRS}

    seed: int | None = option(None, help="of the first permutation; the others have the next seeds")
    directions: int = option(DIRECTIONS, help="number of permutations")

    def __post_init__(self) -> None:
        check_directions(self.name, self.directions)

    def check(self, available: Collection[Requirement]) -> None:
        """Raise ``EvaluationError`` if the controlled defense, the file or the pairs are not available."""
        super().check(available)
        ArtifactDefense.check(self, available)

    def build(self, context: DefenseContext) -> BuiltDefense:
        """The vectors of each permutation."""
        from sarsteer.steering.baselines import same_norm
        from sarsteer.steering.subspace import ablate

        built, steering, pairs = self.controlled(context), context.steering, context.pairs
        assert steering is not None, "build_defense checks this"
        assert pairs is not None, "build_defense checks this"
        n = int(steering.metadata.get("pairs", len(pairs)))
        if pairs[:n].digest == steering.metadata.get("pairs_digest"):
            pairs = pairs[:n]  # as many as the steering was calibrated on
        model: Any = context.model
        seed, k, lambda_ = context.seed if self.seed is None else self.seed, 0, 0.0
        if built.strength is not None:
            k, lambda_ = built.strength.k, built.strength.lambda_
        texts = (steering.metadata["instruction"], steering.metadata["refusal_prompt"])
        depends_on = (model.fingerprint.digest, pairs.digest, *texts, str(seed), str(self.directions))
        seeds = range(seed, seed + self.directions)
        shuffled = cached_vectors(
            context.cache,
            self.name,
            depends_on,
            lambda: _refusals(model, pairs, texts, seeds, context.batch_size),
        )
        vectors = [same_norm(ablate(refusal, steering.safe_basis, k, lambda_), built.vectors) for refusal in shuffled]
        return self.with_each(built, vectors, seed)


def _refusals(model: Any, pairs: Pairs, texts: tuple[str, str], seeds: Sequence[int], batch_size: int) -> torch.Tensor:
    """Raw refusal vectors of each seed's permutation, ``[S, L, D]``, with the model unsteered.

    ``texts`` are the paper's t and p.
    """
    import torch

    from sarsteer.steering.baselines import balanced_signs

    harmful, instruction, prompt = pairs.harmful, texts[0], "".join(texts)
    signs = torch.stack([balanced_signs(len(harmful), seed) for seed in seeds])
    total: Any = 0.0
    for start in range(0, len(harmful), batch_size):
        batch = harmful[start : start + batch_size]
        plain, prompted = model.paired_activations(
            [item.turn(instruction) for item in batch], [item.turn(prompt) for item in batch]
        )
        difference = prompted.double() - plain.double()
        total = total + torch.einsum("sn,nld->sld", signs[:, start : start + len(batch)], difference)
    return torch.div(total, len(harmful)).float()
