"""The demo's choice of a strength, and its judge of everyday tasks."""

from __future__ import annotations

from sarsteer.demo.toy.requests import ExactJudge
from sarsteer.demo.toy.tuning import MAX_LOST, Trial, Tuned, arms_and_curve, choose
from sarsteer.evaluation.results import Arm
from sarsteer.evaluation.summary import summarize
from sarsteer.judges.base import JudgedAnswer, Verdict
from sarsteer.stats.rates import rate
from sarsteer.tiny.world import REFUSAL


def trial(alpha: float, k: int, refused: int, correct: int) -> Trial:
    """Of 50 pairs, ``refused`` harmful requests are refused, and ``correct`` safe answers are correct."""
    items = [JudgedAnswer("q", "a", "harmful", pair=str(i)) for i in range(50)]
    items += [JudgedAnswer("q", "a", "safe", pair=str(i)) for i in range(50)]
    verdicts = [Verdict("refused" if i < refused else "complied", "") for i in range(100)]
    arm = Arm("tuning pairs", f"k={k}", {"alpha": alpha, "k": k}, summarize(verdicts, items), ())
    return Trial(alpha, k, arm, rate([i < correct for i in range(50)]))


UNDEFENDED = trial(0.0, 0, 0, 50)


def test_the_best_brr_among_those_that_lose_few_safe_answers() -> None:
    weak, good, strong = trial(0.05, 5, 10, 50), trial(0.1, 5, 30, 49), trial(0.2, 5, 50, 48)
    assert (50 - 48) / 50 > MAX_LOST > (50 - 49) / 50
    assert choose([weak, good, strong], UNDEFENDED) is good


def test_the_smallest_strength_if_all_lose_too_many() -> None:
    assert choose([trial(0.2, 5, 50, 30), weakest := trial(0.1, 5, 0, 40)], UNDEFENDED) is weakest


def test_the_smaller_strength_of_two_with_the_same_brr() -> None:
    assert choose([trial(0.2, 5, 30, 50), smaller := trial(0.1, 5, 30, 50)], UNDEFENDED) is smaller


def test_the_best_trial_for_each_k_is_an_arm_and_the_others_are_points() -> None:
    trials = tuple(trial(alpha, k, refused, 50) for k in (0, 5) for alpha, refused in ((0.1, 20), (0.2, 30), (0.3, 10)))
    arms, curve = arms_and_curve(Tuned(trials, UNDEFENDED, trials[1], trials[4], None))
    assert arms == [UNDEFENDED.arm, trials[1].arm, trials[4].arm]
    assert [(point.defense, point.alpha) for point in curve] == [("k=0", 0.1), ("k=0", 0.3), ("k=5", 0.1), ("k=5", 0.3)]
    assert trials[1].spec == "refusal-steering:alpha=0.2"
    assert trials[4].spec == "sarsteer:alpha=0.2,k=5"


def test_the_judge_of_everyday_tasks() -> None:
    answers = ("I hear two numbers. ", "I hear three numbers.", REFUSAL)
    items = [JudgedAnswer("one two", answer, "safe", reference="I hear two numbers.") for answer in answers]
    assert [verdict.outcome for verdict in ExactJudge().judge(items)] == ["complied", "broken", "refused"]
