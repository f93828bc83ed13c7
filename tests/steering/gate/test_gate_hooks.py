"""The gate inside a model: one decision per row in prefill, followed exactly, or an error before the first answer."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer import AudioLanguageModel, Steering
from sarsteer.data.pairs import Pairs
from sarsteer.errors import SteeringError
from sarsteer.steering.gate import hooks as gate_hooks
from sarsteer.steering.gate.distance import fit_distance
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.strength import ResolvedStrength
from tests.support.reference import steered_by_hand
from tests.support.tiny import compile_config, conversation, random_vectors, tiny_qwen2_audio

ALPHA, LAYER = 0.7, 1
EARLIER = {"one layer": (), "two layers": (0,)}
TURNS = [conversation(seed, seconds) for seed, seconds in ((1, 0.3), (2, 0.8), (3, 0.5), (4, 0.6), (5, 0.4))]
# float32 sums of 32 products in another order, of scores of about one
CLOSE = 1e-4


@pytest.fixture
def model() -> AudioLanguageModel:
    return tiny_qwen2_audio(seed=0)


@pytest.fixture
def vectors(model: AudioLanguageModel) -> torch.Tensor:
    return random_vectors(model)


@pytest.fixture(params=EARLIER.values(), ids=EARLIER)
def gate(request: pytest.FixtureRequest, model: AudioLanguageModel) -> Gate:
    """Open for some of the turns and closed for others."""
    activations = model.last_token_activations(TURNS)
    weights = {layer: activations[1, layer] - activations[0, layer] for layer in (*request.param, LAYER)}
    raw = Gate(LAYER, weights.pop(LAYER), 0.0, 0.0, earlier=weights)
    scores = raw.score(activations).sort().values
    scale = float(scores[-1] - scores[0])
    threshold = float(scores[1] + scores[2]) / 2 / scale
    earlier = {layer: weight / scale for layer, weight in raw.earlier.items()}
    return replace(raw, weight=raw.weight / scale, threshold=threshold, earlier=earlier)


@pytest.fixture
def handle(model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate) -> Iterator[SteeringHandle]:
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate)) as attached:
        yield attached


def above(vectors: torch.Tensor, layer: int = LAYER) -> torch.Tensor:
    upper = vectors.clone()
    upper[: layer + 1] = 0
    return upper


@torch.no_grad()
def logits(model: AudioLanguageModel, turns: list[Any] = TURNS) -> torch.Tensor:
    inputs = model.collate(model.prepare(turns))
    inputs.pop("input_ids")
    return model.module(**inputs).logits


def openings(handle: SteeringHandle) -> list[float]:
    return [decision.opening for decision in handle.decisions]


def test_open_rows_are_steered_above_the_gate_and_closed_ones_not_at_all(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate
) -> None:
    plain, strengths = logits(model), gate.strength(model.last_token_activations(TURNS))
    assert set(strengths.tolist()) == {0.0, 1.0}
    with steered_by_hand(model.decoder_layers, above(vectors), ALPHA):
        steered = logits(model)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate)) as handle:
        gated = logits(model)
        assert openings(handle) == strengths.tolist()
    for row, opened in enumerate(strengths.tolist()):
        assert torch.equal(gated[row], (steered if opened else plain)[row])


def test_the_logistic_gate_steers_by_its_opening(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, handle: SteeringHandle
) -> None:
    handle.apply(handle.strength.with_gate(gate.with_mode("logistic", 0.2)))
    gated = logits(model)
    shares = openings(handle)
    assert all(0 < share < 1 for share in shares)
    assert [d.strength for d in handle.decisions] == pytest.approx([ALPHA * share for share in shares])
    handle.remove()
    for row, share in enumerate(shares):
        with steered_by_hand(model.decoder_layers, above(vectors), ALPHA * share):
            # a fused multiply-add rounds once where the reference rounds twice
            assert torch.allclose(logits(model)[row, -1], gated[row, -1], atol=1e-4)


def test_a_mixed_batch_of_answers_equals_its_rows(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    together = model.generate(TURNS, 10, batch_size=5)
    decisions = handle.decisions
    assert {d.opening for d in decisions} == {0.0, 1.0}
    for turn, answer, decision in zip(TURNS, together, decisions, strict=True):
        assert model.generate([turn], 10) == [answer]
        assert handle.decisions[0].opening == decision.opening
        assert handle.decisions[0].score == pytest.approx(decision.score, abs=CLOSE)


@pytest.mark.slow
def test_real_speech_is_gated_as_its_rows(embedded: AudioLanguageModel, steering: Steering, test_pairs: Pairs) -> None:
    t, gate = steering.metadata["instruction"], steering.gate
    assert gate is not None
    turns = [item.turn(t) for pair in test_pairs[:6] for item in (pair.harmful, pair.safe)]
    prompts = embedded.prepare(turns)
    activations = embedded.last_token_activations(prompts)
    low, high = gate.score(activations).sort().values[5:7].tolist()
    steering = steering.with_gate(gate.with_threshold((low + high) / 2))  # six of twelve are above it
    assert steering.gate is not None
    strengths = steering.gate.strength(activations)
    plain = embedded.generate(prompts, 32)
    with steering.on(embedded, alpha=0.5, k=0, gate=True) as handle:
        together = embedded.generate(prompts, 32)
        assert openings(handle) == strengths.tolist()
        assert 0 < sum(strengths) < len(turns)
        assert together == [embedded.generate([prompt], 32)[0] for prompt in prompts]
    for before, after, strength in zip(plain, together, strengths.tolist(), strict=True):
        assert strength or before == after, "a request with the gate closed is answered as without steering"
    assert plain != together


@pytest.mark.slow
def test_an_attack_spread_over_turns_opens_the_gate(
    embedded: AudioLanguageModel, calibration_pairs: Pairs, test_pairs: Pairs
) -> None:
    """The clip comes first and the instruction later: the last prompt token sees both turns.

    On 60 pairs 30 % of such attacks open the toy's gate, which reads layers 0 to 4, and 3 % of their safe twins.
    """
    steering = sarsteer.calibrate(embedded, calibration_pairs)
    instruction = steering.metadata["instruction"]

    def spread(item: Any) -> list[Any]:
        later = {"role": "user", "content": instruction}
        return [*item.turn("Listen."), {"role": "assistant", "content": "Yes."}, later]

    pairs = test_pairs[:20]
    with steering.on(embedded, gate=True) as handle:
        embedded.generate([spread(item) for item in (*pairs.harmful, *pairs.safe)], 1)
        opened = openings(handle)
    assert sum(opened[:20]) >= 4
    assert sum(opened[20:]) <= 2


def test_decisions_come_in_the_order_of_the_answers(
    model: AudioLanguageModel, gate: Gate, handle: SteeringHandle
) -> None:
    scores = gate.score(tiny_qwen2_audio(seed=0).last_token_activations(TURNS)).tolist()
    model.generate(TURNS, 3, batch_size=2)  # batches are made by length
    assert [d.score for d in handle.decisions] == pytest.approx(scores, abs=CLOSE)
    model.generate(TURNS, 3, batch_size=2, do_sample=True, num_return_sequences=2)
    assert [d.score for d in handle.decisions] == pytest.approx([s for s in scores for _ in (0, 1)], abs=CLOSE)
    model.generate(TURNS, 3, num_beams=3)
    assert [d.score for d in handle.decisions] == pytest.approx(scores, abs=CLOSE)
    list(model.stream(TURNS[2], 3))
    assert [d.score for d in handle.decisions] == pytest.approx(scores[2:3], abs=CLOSE)
    handle.apply(handle.strength.with_gate(None))
    assert handle.decisions == []


def test_there_are_no_decisions_before_the_first_prompt(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    assert handle.decisions == []


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 1.3}, {"cache_implementation": "static"}],
    ids=lambda o: ",".join(o) or "greedy",
)
def test_generation_modes_equal_hooks_by_hand(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, options: dict[str, object]
) -> None:
    """Row by row, so that a reference without a gate can reproduce either decision."""
    strengths = gate.strength(model.last_token_activations(TURNS)).tolist()

    def run(turn: Any) -> list[str]:
        torch.manual_seed(7)
        return model.generate([turn], max_new_tokens=8, **options)

    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate)):
        ours = [run(turn) for turn in TURNS]
    for turn, strength, answer in zip(TURNS, strengths, ours, strict=True):
        with steered_by_hand(model.decoder_layers, above(vectors), ALPHA * strength):
            assert run(turn) == answer


def test_without_a_gate_steering_is_the_paper_s_to_the_bit(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, handle: SteeringHandle
) -> None:
    handle.apply(handle.strength.with_gate(None))
    switched_off = logits(model)
    handle.remove()
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        assert torch.equal(logits(model), switched_off)
    with steered_by_hand(model.decoder_layers, vectors, ALPHA):
        assert torch.equal(logits(model), switched_off)


def test_removal_leaves_no_trace(model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate) -> None:
    plain, state = logits(model), set(model.module.state_dict())
    modules = {name for name, _ in model.module.named_modules()}
    handle = attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate))
    assert set(model.module.state_dict()) == state
    handle.remove()
    assert torch.equal(logits(model), plain)
    assert {name for name, _ in model.module.named_modules()} == modules
    assert not [hook for module in model.module.modules() for hook in module._forward_hooks]
    assert handle.decisions == []


def test_gates_change_in_place_and_move_with_a_new_proof(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, handle: SteeringHandle
) -> None:
    state = model.decoder_layers[2]._sarsteer_gate
    some = logits(model)
    handle.apply(handle.strength.with_gate(replace(gate, threshold=-1e6)))
    with steered_by_hand(model.decoder_layers, torch.zeros_like(vectors), 0.0):
        assert not torch.equal(logits(model), some)
    handle.apply(handle.strength.with_gate(gate))
    assert torch.equal(logits(model), some)
    assert model.decoder_layers[2]._sarsteer_gate is state
    handle.apply(handle.strength.with_gate(replace(gate, layer=0, earlier={}, threshold=-1e6)))
    moved = logits(model)
    handle.remove()
    with steered_by_hand(model.decoder_layers, above(vectors, 0), ALPHA):
        assert torch.equal(logits(model), moved)
    with pytest.raises(SteeringError, match="was removed"):
        handle.apply(handle.strength.with_gate(gate))


def test_a_handle_without_a_gate_can_get_one(model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate) -> None:
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)) as handle:
        handle.apply(handle.strength.with_gate(gate))
        logits(model)
        assert set(openings(handle)) == {0.0, 1.0}
        handle.alpha = 0.0
        none = logits(model)
    assert torch.equal(none, logits(model))


# ---- turns -----------------------------------------------------------------------------------------------------------


def test_each_turn_decides_again(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, handle: SteeringHandle
) -> None:
    """Also with a cache that continues: the new tokens are the new turn's prefill."""
    text = [
        model.tokenizer(words, return_tensors="pt")["input_ids"]
        for words in ("First words.", "Then some other words!", "And now this?", "No, that.", "So?")
    ]
    whole = model.module.generate(input_ids=text[0], max_new_tokens=4, return_dict_in_generate=True, do_sample=False)
    scores = [handle.decisions[0].score]
    for words in text[1:]:
        tokens = torch.cat([whole.sequences, words], dim=1)
        whole = model.module.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            past_key_values=whole.past_key_values,
            max_new_tokens=4,
            return_dict_in_generate=True,
            do_sample=False,
        )
        scores.append(handle.decisions[0].score)
    assert len({round(score, 3) for score in scores}) == len(scores)


def test_a_prompt_of_one_token_is_steered(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, handle: SteeringHandle
) -> None:
    """It cannot be distinguished from a decode step; the previous request must not open or close the gate for it."""
    handle.apply(handle.strength.with_gate(replace(gate, threshold=1e6)))
    model.generate(TURNS[:1], 2)
    assert openings(handle) == [0.0]
    token = torch.tensor([[5]])
    alone = model.module.generate(input_ids=token, attention_mask=torch.ones_like(token), max_new_tokens=6)
    handle.remove()
    with steered_by_hand(model.decoder_layers, above(vectors), ALPHA):
        assert torch.equal(
            model.module.generate(input_ids=token, attention_mask=torch.ones_like(token), max_new_tokens=6), alone
        )


# ---- requests unlike the calibration ---------------------------------------------------------------------------------


def test_beyond_the_limit_everything_is_steered(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, handle: SteeringHandle
) -> None:
    seen = model.last_token_activations(TURNS)[:, LAYER]
    near = fit_distance(seen[:4], torch.tensor([0, 0, 1, 1]))
    limit = float(near(seen[:4]).max()) * 1.01
    assert float(near(seen[4])) > limit
    handle.apply(handle.strength.with_gate(replace(gate, threshold=1e6, distance=near, limit=limit)))
    model.generate(TURNS, 2)
    assert openings(handle) == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert [d.out_of_distribution for d in handle.decisions] == [False] * 4 + [True]
    assert [d.distance for d in handle.decisions] == pytest.approx(near(seen).tolist(), rel=1e-3)


def test_nan_activations_are_steered(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    def spoil(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output[0, -1] = math.nan
        return output

    hook = model.decoder_layers[LAYER - 1].register_forward_hook(spoil)
    logits(model)
    hook.remove()
    assert openings(handle)[0] == 1.0


def test_two_answers_at_once_are_an_error(model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate) -> None:
    """A second prefill would decide for the remaining tokens of the first answer."""
    alone = "".join(model.stream(TURNS[0], 12))
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA)):
        first, second = model.stream(TURNS[0], 12), model.stream(TURNS[1], 12)
        next(first), next(second)  # ungated, calls may overlap
        list(first), list(second)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate)) as handle:
        expected = "".join(model.stream(TURNS[0], 12))
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with handle.answering():
                entered.set()
                leave.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        entered.wait()
        try:
            for answer in (
                lambda: model.generate(TURNS[:1], 4),
                lambda: list(model.stream(TURNS[0], 4)),
                lambda: model.module.generate(**model.collate(model.prepare(TURNS[:1])), max_new_tokens=2),
            ):
                with pytest.raises(SteeringError, match="is answering another request"):
                    answer()
        finally:
            leave.set()
            holder.join()
        assert "".join(model.stream(TURNS[0], 12)) == expected
    assert "".join(model.stream(TURNS[0], 12)) == alone


# ---- compiled --------------------------------------------------------------------------------------------------------


def test_compiled_decoding(model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate) -> None:
    prompts = model.prepare(TURNS)
    options = {"cache_implementation": "static", "compile_config": compile_config()}
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate)) as handle:
        eager = model.generate(prompts, max_new_tokens=8)
        assert model.generate(prompts, max_new_tokens=8, **options) == eager
        handle.apply(handle.strength.with_gate(replace(gate, threshold=-1e6)))
        everything = model.generate(prompts, max_new_tokens=8)
        assert everything != eager
        assert model.generate(prompts, max_new_tokens=8, **options) == everything


@pytest.mark.slow
def test_a_compiled_model(model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate) -> None:
    inputs = model.collate(model.prepare(TURNS))
    inputs.pop("input_ids")
    # like calibration's gates: a threshold that never opens is refused, except in the proof
    gate = replace(gate, metadata={"held_out": {"safe": [0.0], "harmful": [gate.threshold + 0.1]}})
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate)):
        eager = logits(model)
    compiled = torch.compile(model.module, backend="eager")
    layers = sarsteer.find_decoder_layers(compiled)
    with torch.no_grad(), attach(compiled, layers, ResolvedStrength(vectors, ALPHA, gate)) as handle:
        # two batch sizes, so that the second may be traced with a symbolic one
        assert torch.allclose(compiled(**inputs).logits, eager, atol=1e-5)
        few = {name: tensor[:3] for name, tensor in inputs.items()}
        compiled(**few)
        assert len(handle.decisions) == 3
        before = openings(handle)
        handle.apply(handle.strength.with_gate(replace(gate, threshold=1e6)))
        compiled(**few)
        assert openings(handle) == [0.0] * 3 != before


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_a_gate_that_leaves_no_layer_to_steer_is_refused(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate
) -> None:
    before = logits(model)
    for layer in (3, 4, 100):
        with pytest.raises(SteeringError, match="no layer above it to steer"):
            attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, replace(gate, layer=layer)))
    with pytest.raises(SteeringError, match="has width 5"):
        attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, Gate(0, torch.ones(5), 0.0, 0.0)))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("part", ["decide", "steer_gated"])
def test_a_gate_that_does_nothing_fails_the_proof(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    before = logits(model)
    monkeypatch.setattr(gate_hooks, part, lambda *_: None)
    with pytest.raises(SteeringError, match="did not s"):
        attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate))
    assert torch.equal(logits(model), before)


def test_a_gate_that_forgets_in_decoding_fails_the_proof(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = gate_hooks.decide

    def forget(module: Any, output: torch.Tensor) -> None:
        decide(module, output)
        if output.shape[1] == 1:
            module._sarsteer_gate.openings.fill_(1.0)

    monkeypatch.setattr(gate_hooks, "decide", forget)
    with pytest.raises(SteeringError, match="exactly the last position of a decode step"):
        attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate))


def test_a_score_of_another_position_fails_the_proof(
    model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(module: Any, output: torch.Tensor) -> None:
        if output.shape[1] > 1:
            module._sarsteer_gate.decide(output[:, 0])

    monkeypatch.setattr(gate_hooks, "decide", first)
    with pytest.raises(SteeringError, match="did not score the last prompt token"):
        attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate))


def test_more_rows_than_the_capacity_are_refused(handle: SteeringHandle, model: AudioLanguageModel) -> None:
    state = model.decoder_layers[LAYER]._sarsteer_gate
    with pytest.raises(SteeringError, match="at most 4096"):
        state.decide(torch.zeros(gate_hooks.CAPACITY + 1, model.hidden_size))


# ---- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(vectors: torch.Tensor, gate: Gate, dtype: torch.dtype) -> None:
    model = tiny_qwen2_audio(seed=0)
    model.module.to(dtype)
    prompts = model.prepare(TURNS)
    plain = model.last_token_activations(prompts)
    strengths = gate.strength(plain)
    with steered_by_hand(model.decoder_layers, above(vectors), 0.3):
        steered = model.last_token_activations(prompts)
    with attach(model.module, model.decoder_layers, ResolvedStrength(vectors, 0.3, gate)):
        gated = model.last_token_activations(prompts)
    assert torch.equal(gated, torch.where(strengths[:, None, None] > 0, steered, plain))


def test_moving_the_model_moves_the_gate_with_it(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    before = logits(model)
    model.module.double()
    assert len({id(layer._sarsteer_gate) for layer in model.decoder_layers[LAYER:]}) == 1
    model.module.float()
    assert torch.allclose(logits(model), before, atol=1e-5)


def test_inference_mode_and_gradients(model: AudioLanguageModel, vectors: torch.Tensor, gate: Gate) -> None:
    with torch.inference_mode():
        handle = attach(model.module, model.decoder_layers, ResolvedStrength(vectors, ALPHA, gate))
        inside = logits(model)
    assert torch.equal(logits(model), inside)
    inputs = model.collate(model.prepare(TURNS))
    for _ in range(2):
        embeds = inputs["inputs_embeds"].clone().requires_grad_()
        model.module(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits[:, -1].sum().backward()
        assert embeds.grad is not None
        assert float(embeds.grad.abs().sum()) > 0
    handle.remove()
