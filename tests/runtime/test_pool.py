"""A pool loads each model and judge once."""

from __future__ import annotations

import pytest

import sarsteer
from sarsteer.errors import ModelError
from sarsteer.judges import parse_judge
from sarsteer.runtime.pool import Pool


def test_models_and_judges_are_shared(embedded: sarsteer.AudioLanguageModel) -> None:
    pool = Pool()
    pool.add_model(embedded)
    first, second = (pool.model("sarsteer-tiny", {}, batch_size) for batch_size in (4, 8))
    assert first is second
    assert first.model is embedded
    assert first.batch_size == 8
    keywords = parse_judge("keywords")
    assert pool.judge("keywords", keywords) is pool.judge("keywords", keywords)
    with pytest.raises(ModelError, match="unknown model"):
        pool.model("nothing/at-all", {}, 4)
    pool.close()
    assert pool.judge("keywords", keywords).judge is keywords


def test_a_models_identity(embedded: sarsteer.AudioLanguageModel) -> None:
    pool = Pool()
    pool.add_model(embedded)
    identity = pool.model("sarsteer-tiny", {}, 1).identity
    assert identity["fingerprint"] == embedded.fingerprint.digest
    assert (identity["name"], identity["device"], identity["dtype"]) == ("sarsteer-tiny", "cpu", "float32")
