"""Which rows of a step are steered."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.vllm.worker import rows

REQUESTS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=8)


@given(REQUESTS)
def test_rows_from_the_last_prompt_token_are_steered(batch: list[tuple[int, int, int]]) -> None:
    computed, scheduled, prompts = (np.array(column) for column in zip(*batch, strict=True))
    expected = [c + i >= p - 1 for c, n, p in batch for i in range(n)]
    assert (rows.past_prompt(computed, scheduled, prompts) >= 0).tolist() == expected


@given(st.integers(1, 40), st.integers(0, 20), st.lists(st.integers(1, 7), min_size=1, max_size=30))
def test_chunks_do_not_change_which_positions_are_steered(prompt: int, answered: int, chunks: list[int]) -> None:
    """However a sequence is cut into steps, the same positions are steered."""
    total, done, steered = prompt + answered, 0, []
    for chunk in [*chunks, total]:
        chunk = min(chunk, total - done)
        if chunk:
            steered += (rows.past_prompt([done], [chunk], [prompt]) >= 0).tolist()
            done += chunk
    assert steered == [position >= prompt - 1 for position in range(total)]


def test_rows_have_the_strength_and_set_of_their_request() -> None:
    step = rows.rows_of([0.1, 0.0, 0.3], [0, 1, 2], [0, 5, 2], [3, 1, 2], [3, 5, 9], [7, 8, 9], [7, 8, 9])
    assert np.allclose(step.strengths, [0, 0, 0.1, 0, 0, 0])
    assert step.sets.tolist() == [0, 0, 0, 1, 2, 2]
    assert step.slots.tolist() == [7, 7, 7, 8, 9, 9]
    assert step.decided.tolist() == [rows.NOWHERE, rows.NOWHERE, 7, rows.NOWHERE, rows.NOWHERE, rows.NOWHERE]
