"""Sums over parts are the sums over all; what they give is what calibration computes from the activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer import AudioLanguageModel, Steering
from sarsteer.data.pairs import Pairs
from sarsteer.errors import CalibrationError
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.steering.gate.detectors import METHODS, scaled
from sarsteer.steering.gate.distance import fit_distance
from sarsteer.steering.gate.nested import auroc as exact_auroc
from sarsteer.steering.gate.samples import Samples
from sarsteer.steering.pooled.artifact import local_setting, pool
from sarsteer.steering.pooled.calibration import advance
from sarsteer.steering.pooled.collect import collect, collected
from sarsteer.steering.pooled.counts import auroc, quantile
from sarsteer.steering.pooled.detectors import detectors, distance
from sarsteer.steering.pooled.rounds import BINS, RANGE, Query, answer, histogram, layout_of
from sarsteer.steering.pooled.setting import FIT, Rows
from sarsteer.steering.pooled.sketch import centered, reconstruct, sketch_matrix
from sarsteer.steering.pooled.sums import Sums
from sarsteer.steering.subspace import safe_subspace
from tests.federated.sites import LAYERS, WIDTH, joined, rows_of, setting_of

CLOSE = 1e-11
"""float64 sums of at most 100 numbers in another order."""


def assert_equal(a: Sums, b: Sums) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=CLOSE, atol=CLOSE * float(b[name].abs().max() + 1), msg=name)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=4), st.sampled_from([0, 5, WIDTH])
)
@settings(max_examples=15)
def test_merged_sums_are_those_of_all_clips_in_any_order(sizes: list[tuple[int, int]], rank: int) -> None:
    setting = setting_of(rank)
    sites = [rows_of(pairs, benign, seed) for seed, (pairs, benign) in enumerate(sizes)]
    whole = answer(setting, Query("statistics"), joined(*sites))
    parts = [answer(setting, Query("statistics"), one) for one in sites]
    for order in (parts, parts[::-1]):
        assert_equal(sum(order[1:], order[0]), whole)
    assert_equal(whole + answer(setting, Query("statistics"), rows_of(0)), whole)  # an empty site adds nothing
    layout = layout_of(setting, Query("statistics"))
    assert_equal(Sums.unpacked(whole.packed(layout), layout), whole)
    assert float(whole["pairs"]) == sum(pairs for pairs, _ in sizes)


@given(st.integers(2, 40), st.integers(1, 30), st.integers(0, 5))
@settings(max_examples=20)
def test_no_record_adds_more_than_its_part_allows(seed: int, rank: int, benign: int) -> None:
    """Fixed-point numbers and privacy rely on these bounds, so they must hold for huge activations, too."""
    setting = setting_of(rank)
    rows = rows_of(1, 0, seed)
    huge = Rows(1e6 * rows.harmful, -1e6 * rows.prompted, 1e9 * rows.safe, rows.benign, rows.pair_items, [])
    for one in (rows, huge, rows_of(0, 1, seed)):
        layout = layout_of(setting, Query("statistics"))
        sums = answer(setting, Query("statistics"), one)
        for name, part in layout.items():
            values = sums[name] / part.unit
            assert float(values.abs().max()) <= 1 + 1e-9, name
            assert float(values.norm()) <= part.length * (1 + 1e-9), name


def test_a_sketch_is_exact_once_it_reaches_the_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 40, generator=generator, dtype=torch.float64) + 7.0
    for rank in (4, 9, 20, 40):
        omega = sketch_matrix(40, rank, seed=3)
        basis, squares = reconstruct(centered(x.T @ (x @ omega), x.sum(0), 9, omega), omega)
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), rtol=0, atol=1e-9)
        rows = x - x.mean(0)
        error = torch.linalg.matrix_norm(basis.T @ (squares[:, None] * basis) - rows.T @ rows, 2)
        # 8 dimensions: rounding of numbers that were 7 from zero; below that, an approximation
        assert float(error) < 1e-8 * float(squares[0]) if rank >= 9 else float(error) > 1e-3


def test_the_sketch_matrix_is_the_same_everywhere() -> None:
    expected = "++-++--+"  # recorded; sites with another one cannot be added
    assert "".join("+" if sign > 0 else "-" for sign in sketch_matrix(100, 8, 0)[0]) == expected
    assert torch.equal(sketch_matrix(8, 8, 0), torch.eye(8, dtype=torch.float64))
    assert not torch.equal(sketch_matrix(100, 8, 0), sketch_matrix(100, 8, 1))


def test_detectors_and_distance_are_those_of_the_activations() -> None:
    """With exact second moments, LDA's direction, scale and shrinkage, and the distance, are calibration's own."""
    rows, setting = rows_of(40, 12, gap=1.0), setting_of(WIDTH)
    first = answer(setting, Query("statistics"), rows)
    query = advance(setting, [first])
    assert isinstance(query, Query)
    second = answer(setting, query, rows)
    parts = torch.tensor([setting.part_of(item) for item in rows.pair_items]) == FIT
    others = torch.tensor([setting.part_of(item) for item in rows.benign_items]) == FIT
    clips = torch.cat([rows.harmful[parts], rows.safe[parts], rows.benign[others]]).double()
    labels = np.repeat([1, 0], [int(parts.sum()), int(parts.sum() + others.sum())])
    found = detectors(setting, first, second, 0.0)
    for (method, at), (weight, bias) in found.items():
        x = clips[:, at]
        coefficients, own = scaled(METHODS[method], Samples.of(x), labels)
        expected = torch.from_numpy(coefficients) @ (x - x.mean(0))
        torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-8)
        scores, theirs = (x - setting.center[at]) @ weight + bias, (x - x.mean(0)) @ expected + own
        torch.testing.assert_close(scores, theirs, rtol=1e-6, atol=1e-6)
    assert {method for method, _ in found} == {"difference of means", "shrunk LDA"}
    groups = [*[item.group for item in rows.pair_items]] * 2 + ["everyday"] * 12
    kept = [*parts.tolist(), *parts.tolist(), *others.tolist()]
    names = [f"{int(i < 40)}{group}" for i, group in enumerate(groups)]
    names = [name for name, keep in zip(names, kept, strict=True) if keep]
    classes = torch.tensor([sorted(set(names)).index(name) for name in names])
    exact = fit_distance(clips[:, 1], classes)
    mine = distance(setting, first, second, 1, 0.0)
    assert mine is not None
    new = rows_of(20, seed=5).safe[:, 1]
    torch.testing.assert_close(mine(new - setting.center[1].float()), exact(new), rtol=1e-4, atol=1e-4)  # float32


def test_pooled_vectors_are_those_of_calibration(
    steering: Steering, embedded: AudioLanguageModel, calibration_pairs: Pairs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On the model: equal up to float32, from one set of clips or from three."""
    folder = tmp_path_factory.mktemp("rows")
    pairs = calibration_pairs[:24]
    seen: list[int] = []
    arguments = (embedded, pairs, [], INSTRUCTION, REFUSAL_PROMPT, folder)
    rows = collect(*arguments, batch_size=8, progress=lambda done, _: seen.append(done))
    again = collect(*arguments, progress=lambda done, _: seen.append(-done))  # complete: nothing is computed
    assert seen == [8, 16, 24]
    stored = collected(folder)  # without the model
    assert all(np.array_equal(getattr(stored, n), getattr(rows, n)) for n in ("harmful", "prompted", "safe"))
    assert list(stored.pair_items) == list(rows.pair_items)
    assert stored.benign.shape == (0, *rows.harmful.shape[1:])
    with pytest.raises(CalibrationError, match="run sarsteer federate prepare"):
        collected(folder / "missing")
    with pytest.raises(CalibrationError, match="another instruction"):
        collect(embedded, pairs, [], "Other.", REFUSAL_PROMPT, folder)
    parts = [
        Rows(
            *(getattr(again, n)[i::3] for n in ("harmful", "prompted", "safe")),
            again.benign,
            again.pair_items[i::3],
            [],
        )
        for i in range(3)
    ]
    setting = local_setting(rows, rank=64)
    for sites in ([rows], parts):
        found = pool(setting, sites).tensors
        scale = float(steering.refusal.abs().max())
        torch.testing.assert_close(found["refusal"], steering.refusal, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(found["safe_mean"], steering.safe_mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["harmful_mean"], steering.harmful_mean, rtol=1e-5, atol=1e-5)
        # a median within a bin of 1/16 of a standard deviation of norms, which is below a tenth of the norm
        torch.testing.assert_close(found["activation_norms"], steering.activation_norms, rtol=0.01, atol=0)
        for layer in range(len(steering.refusal)):
            angles = torch.linalg.svdvals(found["safe_basis"][layer, :10] @ steering.safe_basis[layer, :10].T)
            assert float(angles.min()) > 1 - 1e-4


def test_the_subspace_equals_the_exact_one() -> None:
    rows = rows_of(30, 0)
    found = pool(setting_of(WIDTH), [rows], gate=False).tensors
    basis, values, mean = safe_subspace(rows.safe)
    torch.testing.assert_close(found["singular_values"], values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["safe_mean"], mean, rtol=1e-6, atol=1e-6)
    cosines = (found["safe_basis"] * basis).sum(-1).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-4)


def test_the_gate_keeps_its_stated_rate() -> None:
    """Its threshold comes from clips that neither fitted nor chose it: over draws, at most 10 % of new ones open it."""
    opened = []
    for seed in range(6):
        pooled = pool(setting_of(WIDTH, target_fpr=0.1), [rows_of(120, 60, seed=100 + seed)])
        assert pooled.gate is not None, pooled.no_gate
        new = rows_of(240, 120, seed=200 + seed)  # like the clips of calibration: two twins for each other request
        safe = torch.cat([new.safe, new.benign])
        opened.append(float((pooled.gate.strength(safe) > 0).float().mean()))
        assert float((pooled.gate.strength(new.harmful) > 0).float().mean()) > 0.5
    # the mean of 6 rates with standard deviations of about 0.03
    assert np.mean(opened) < 0.1 + 3 * 0.03 / 6**0.5


def test_no_gate_is_fitted_to_noise_or_to_few_clips() -> None:
    few, noise = (pool(setting_of(), [rows]) for rows in (rows_of(6), rows_of(150, gap=0.0)))
    assert few.gate is None
    assert few.no_gate is not None
    assert "too few" in few.no_gate
    assert noise.gate is None
    assert noise.no_gate is not None
    assert "separates" in noise.no_gate


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.lists(st.floats(-5, 5), min_size=1, max_size=60))
@settings(max_examples=30)
def test_auroc_from_counts(harmful: list[float], safe: list[float]) -> None:
    counts = [histogram(torch.tensor(values, dtype=torch.float64), BINS, -RANGE, RANGE) for values in (harmful, safe)]
    width = 2 * RANGE / BINS
    bins = [np.clip(np.floor((np.array(values) + RANGE) / width), -1, BINS) for values in (harmful, safe)]
    expected = exact_auroc(np.repeat([1, 0], [len(harmful), len(safe)]), np.concatenate(bins))
    assert auroc(*counts)[0] == pytest.approx(expected, abs=1e-12)


def test_quantiles_and_nan() -> None:
    values = torch.linspace(-2, 2, 1001, dtype=torch.float64)
    assert quantile(histogram(values, 128, -4.0, 4.0), 0.5, -4.0, 4.0) == pytest.approx(0.0, abs=8 / 128)
    assert histogram(torch.tensor([float("nan"), 9.0, -9.0, 4.0]), 8, -4.0, 4.0).tolist() == [1, *[0] * 8, 3]


def test_bad_rows_are_refused() -> None:
    rows, setting = rows_of(4), setting_of()
    broken = rows.harmful.clone()
    broken[1, 2, 3] = float("nan")
    with pytest.raises(CalibrationError, match="NaN"):
        answer(setting, Query("statistics"), Rows(broken, rows.prompted, rows.safe, rows.benign, rows.pair_items, []))
    with pytest.raises(CalibrationError, match=r"\[n, 4, 24\]"):
        answer(
            setting,
            Query("statistics"),
            Rows(rows.harmful[:, :, :9], rows.prompted, rows.safe, rows.benign, rows.pair_items, []),
        )
    with pytest.raises(CalibrationError, match="group"):
        rows_of(4).check(setting_of().__class__(("twin",), (), setting.center, setting.radius))
    with pytest.raises(CalibrationError, match="cannot add"):
        _ = answer(setting, Query("statistics"), rows) + answer(setting_of(5), Query("statistics"), rows)
    assert setting.layers == LAYERS


def test_a_distance_limit_that_too_many_clips_exceed_is_left_out() -> None:
    """Few clips set the limit; a gate without it is better than none, and says why it has none."""
    rows = [rows_of(40, 10, index) for index in (0, 1, 3)]
    gate = pool(setting_of(), rows).gate
    assert gate is not None
    assert gate.limit is None
    assert gate.distance is None
    assert "beyond the gate's distance limit" in gate.metadata["no_distance_limit"]
    loose = pool(setting_of(target_fpr=0.1), rows).gate
    assert loose is not None
    assert loose.limit is not None
    assert "no_distance_limit" not in loose.metadata
    new = rows_of(400, seed=5)
    assert float((gate.strength(new.harmful) > 0).float().mean()) > 0.5
    opened = float((gate.strength(new.safe) > 0).float().mean())
    assert opened < 0.05 + 4 * (0.05 * 0.95 / 38) ** 0.5  # the threshold rests on 38 clips
