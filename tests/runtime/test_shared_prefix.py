"""Answers after a shared prefix are those of whole prompts, under every kind of defense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs
from sarsteer.defenses import DEFENSES, DefenseContext, build_defense
from sarsteer.errors import EvaluationError, ModelError
from sarsteer.models.continuation import endings
from sarsteer.models.shared_prefix import SharedPrefix
from sarsteer.runtime.answerer import Answerer, Reply
from sarsteer.steering.strength import Strength


def test_answers_equal_those_of_whole_prompts(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, test_pairs: Pairs
) -> None:
    instruction = steering.metadata["instruction"]
    turns = [item.turn(instruction) for pair in test_pairs[:4] for item in (pair.harmful, pair.safe)]
    assert steering.gate is not None
    often = steering.with_gate(steering.gate.with_threshold(-0.5))  # opens for some of the few requests, not all
    context = DefenseContext(embedded, steering=often, strength=Strength(alpha=0.3), pairs=test_pairs[:12])
    names = (
        "none",
        "prompt:refusal",
        "sarsteer",
        "random:seed=1,directions=1",
        "sarsteer:k=0,gate=on",
        "sarsteer",
        "none",
        "cast",
        "alphasteer",
        "sarsteer:k=0,gate=on,refusal=No.",
    )
    defenses = [build_defense(DEFENSES.parse(name), context) for name in names]
    answerer = Answerer(embedded)
    whole = [answerer.answer(defense, turns, 24) for defense in defenses]

    prompts = embedded.prepare(turns)
    (prompted,) = embedded.prepare([defenses[1].prompt.apply(turns[0])])
    plain, other = endings(prompts[0].input_ids, prompted.input_ids)
    prefix = answerer.share_prefix(prompts, len(plain))
    after = [
        answerer.answer_after(defenses[0], prefix, plain, 24),
        answerer.answer_after(defenses[1], prefix, other, 24),
    ]
    answerer.extend_prefix(prefix, plain[:-2])
    after += [answerer.answer_after(defense, prefix, plain[-2:], 24) for defense in defenses[2:]]
    answerer.close()

    for name, one, two in zip(names, whole, after, strict=True):
        assert [reply.text for reply in one if isinstance(reply, Reply)] == [reply.text for reply in two], name
        for a, b in zip(one, two, strict=True):
            assert isinstance(a, Reply)
            assert set(a.details) == set(b.details)
            if "gate" in a.details:  # the same activations, computed in two forwards instead of one
                assert a.details["gate"]["score"] == pytest.approx(b.details["gate"]["score"], abs=1e-3)
    assert any(reply.details for reply in after[4])
    assert after[7] != after[6], "vectors that depend on the request were added"
    assert 0 < [reply.text for reply in after[9]].count("No.") < len(turns)
    assert len({reply.text for replies in after for reply in replies}) > len(turns)


def test_what_cannot_be_continued_is_refused(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, test_pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = embedded.prepare([test_pairs[0].safe.turn("Answer.")])
    with pytest.raises(ModelError, match="at least 2 tokens, not 1"):
        SharedPrefix(embedded, prompts, 1)
    prefix = SharedPrefix(embedded, prompts, 3)
    with pytest.raises(ModelError, match="at least 2 tokens, not 1"):
        prefix.answer(torch.tensor([1]), 4)
    guard = build_defense(DEFENSES.parse("guard:embedded"), DefenseContext(embedded))
    with pytest.raises(EvaluationError, match="a guard reads whole conversations"):
        Answerer(embedded).answer_after(guard, prefix, prompts[0].input_ids[-3:], 4)
    pool = build_defense(DEFENSES.parse("random"), DefenseContext(embedded, steering=steering))
    with pytest.raises(EvaluationError, match="pass a member of the pool"):
        Answerer(embedded).answer_after(pool, prefix, prompts[0].input_ids[-3:], 4)
    monkeypatch.setattr(embedded, "family", replace(embedded.family, prefix_reuse=False))
    with pytest.raises(ModelError, match="cannot be continued; call generate"):
        SharedPrefix(embedded, prompts, 3)
