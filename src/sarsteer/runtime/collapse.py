"""Collapse: steering that breaks answers instead of causing refusals. The calibration's own requests show it.

An answer has collapsed if it is broken (``judges.broken``: empty, repetitive, or hardly any letters), or if the entropy
of its words falls below half of that of the undefended answer, and the undefended answer was sound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sarsteer.errors import CalibrationError
from sarsteer.judges.broken import is_broken

if TYPE_CHECKING:
    from sarsteer.data.pairs import Pairs
    from sarsteer.models.audio_language_model import AudioLanguageModel
    from sarsteer.steering.artifact import Steering

PAIRS = 6
"""Pairs whose requests are answered: twelve answers."""
MAX_NEW_TOKENS = 32
ALLOWED = 0.10
"""The share of answers that may collapse."""
HALVINGS = 5
WORDS = 12
"""Entropies of shorter answers are not compared: a short refusal has few words."""


@dataclass(frozen=True)
class CollapseCheck:
    """What a strength does to the calibration's own requests.

    Attributes:
        alpha: the strength.
        collapsed: the number of collapsed answers.
        answers: the number of answers.

    """

    alpha: float
    collapsed: int
    answers: int

    @property
    def passed(self) -> bool:
        """Whether at most ``ALLOWED`` of the answers collapsed."""
        return self.collapsed <= ALLOWED * self.answers


def word_entropy(text: str) -> float:
    """Entropy of the words divided by the logarithm of their number: 1 if all differ, 0 if all are the same."""
    words = text.casefold().split()
    if len(words) < 2:
        return 1.0
    shares = [count / len(words) for count in Counter(words).values()]
    return -sum(share * math.log(share) for share in shares) / math.log(len(words))


def has_collapsed(answer: str, undefended: str) -> bool:
    """Whether steering broke an answer that was sound without it."""
    if is_broken(undefended):
        return False
    if is_broken(answer):
        return True
    return len(answer.split()) >= WORDS and word_entropy(answer) < 0.5 * word_entropy(undefended)


def check_default(model: AudioLanguageModel, steering: Steering, pairs: Pairs) -> list[CollapseCheck]:
    """Check the steering's default strength without its gate, and halve α until the check passes.

    The last check is the one that passed. It needs no gate, because a gate only leaves requests unsteered.

    Args:
        model: the calibrated model, unsteered.
        steering: what was calibrated.
        pairs: the calibration pairs; the requests of the first ``PAIRS`` are answered.

    Raises:
        CalibrationError: no strength down to 1/32 of the default passes.

    """
    few = pairs[:PAIRS]
    prompts = model.prepare([item.turn(steering.metadata["instruction"]) for item in (*few.harmful, *few.safe)])
    undefended = model.generate(prompts, MAX_NEW_TOKENS)
    checks: list[CollapseCheck] = []
    for halvings in range(HALVINGS + 1):
        alpha = steering.defaults[0] / 2**halvings
        with steering.on(model, alpha=alpha, gate=False):
            answers = model.generate(prompts, MAX_NEW_TOKENS)
        checks.append(CollapseCheck(alpha, _count(answers, undefended), len(answers)))
        if checks[-1].passed:
            return checks
    raise CalibrationError(
        f"every alpha from {checks[0].alpha:g} down to {checks[-1].alpha:g} breaks answers to the calibration's own "
        f"requests ({checks[-1].collapsed} of {checks[-1].answers} at the lowest); calibrate with another refusal "
        "prompt or model, or pass --no-check"
    )


def _count(answers: Sequence[str], undefended: Sequence[str]) -> int:
    return sum(has_collapsed(answer, before) for answer, before in zip(answers, undefended, strict=True))
