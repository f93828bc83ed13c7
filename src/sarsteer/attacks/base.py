"""What every attack declares: typed options, what it needs, and one method that attacks requests."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sarsteer.attacks.state import SavedState
from sarsteer.errors import AttackError

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item
    from sarsteer.defenses.built import BuiltDefense
    from sarsteer.models.interface import LanguageModel
    from sarsteer.runtime.answerer import Answerer


class Access(Enum):
    """What an attacker can see. The value is what tables print."""

    BLACK_BOX = "black box"
    """The request only: the attacked requests are the same for every model and defense."""
    WHITE_BOX = "white box"
    """Weights, activations, and the defense's vectors and gate. Needs a local model."""


@dataclass(frozen=True)
class AttackContext:
    """What an attack works with.

    Attributes:
        folder: of this attack on this benchmark; it exists, and it survives a kill. Write clips and saved state here. A
            folder is used by one attack with one set of options, and, for an adaptive attack, against one defense.
        spec: the attack's spec, for seeds and messages.
        instruction: the text beside each clip that has no text of its own; it is what the model gets with the clip.
        model: the loaded model; None if it is behind an endpoint, or the attack is a black box.
        defense: what an adaptive attack is run against; None for other attacks.
        answerer: answers under any defense, for attacks that look at answers; None where ``model`` is.
        seed: of the run.
        batch_size: conversations per forward.
        max_new_tokens: maximum length of an answer.
        progress: called with the number of finished requests (or steps) and their total.
        answers: answers that attacks looked at; contexts that share it do not ask for them again.

    """

    folder: Path
    spec: str = ""
    instruction: str = ""
    model: LanguageModel | None = field(default=None, repr=False)
    defense: BuiltDefense | None = None
    answerer: Answerer | None = field(default=None, repr=False)
    seed: int = 0
    batch_size: int = 16
    max_new_tokens: int = 256
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)
    answers: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def rng(self, *names: str | int) -> np.random.Generator:
        """A generator that depends only on the run's seed, the attack's spec and ``names``, in any process."""
        content = "\0".join(map(str, (self.seed, self.spec, *names)))
        return np.random.default_rng(int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big"))

    def state(self, name: str, depends_on: Mapping[str, Any]) -> SavedState:
        """Saved progress of a long search, such as of one request; see ``SavedState``.

        Args:
            name: unique in the folder; any text, such as an item's id.
            depends_on: everything that the saved tensors depend on, as JSON.

        """
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        return SavedState(self.folder / "state" / f"{digest}.safetensors", depends_on)


@dataclass(frozen=True)
class Attack(ABC):
    """One way to attack: a frozen dataclass whose fields are its options.

    Attributes:
        name: its name in specs.
        access: what the attacker sees.
        version: increase it when the same options give other requests; finished ones are then made again.

    """

    name: ClassVar[str]
    access: ClassVar[Access] = Access.BLACK_BOX
    version: ClassVar[int] = 1

    @property
    def adaptive(self) -> bool:
        """Whether the attacked requests depend on the defense. They are then made for each defense separately."""
        return False

    @property
    def queries(self) -> int:
        """The attacker's budget: how often a request is asked. It succeeds if one of the answers complies."""
        return 1

    @property
    def strength(self) -> float | None:
        """The value on the attack's axis; None if it has no axis."""
        return None

    @abstractmethod
    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """The attacked requests, in the order of ``items``; several in a row for one item if ``queries`` is above 1.

        An item that is attacked once keeps its id. Variants come from ``attacks.items.variant_of``, which numbers them.
        A changed clip names the clip before in ``extra["clean"]``, so that the run can measure whether it was
        misheard; see ``attacks.items.with_clip``. Questions, labels and pairs stay: the judge reads the request that
        the attacker wants answered.

        What is finished is stored in ``context.folder`` and found again, so that a killed run resumes.

        Raises:
            AttackError: the attack does not fit the model, the defense, or an item.

        """

    def check(self) -> None:  # noqa: B027 - most attacks have nothing to check
        """Raise ``AttackError`` if an option is out of range; called before anything is loaded."""

    def reject(self, message: str) -> AttackError:
        """An error about this attack."""
        return AttackError(message, place=f"attack {self.name!r}")
