"""No answer unless every layer is steered by a worker that attached and proved it."""

from __future__ import annotations

from typing import Any

import pytest

from sarsteer.errors import SteeringError
from sarsteer.vllm.engine.handshake import check_confirmed, check_workers
from tests.support.vllm_parts import server_settings


def status(rank: int, layers: range, **changes: Any) -> dict[str, Any]:
    return {"rank": rank, "digest": server_settings().digest, "layers": list(layers), "proven": True, **changes}


def test_every_layer_must_be_steered_by_a_worker() -> None:
    check_workers([status(0, range(2)), status(1, range(2, 4))], server_settings())
    with pytest.raises(SteeringError, match=r"no worker steers decoder layers \[2, 3\]"):
        check_workers([status(0, range(2)), status(1, range(2))], server_settings())
    with pytest.raises(SteeringError, match="no worker"):
        check_workers([], server_settings())


@pytest.mark.parametrize("change", [{"digest": None}, {"digest": "another"}, {"proven": False}])
def test_a_worker_that_did_not_attach_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(SteeringError, match="worker 1 did not"):
        check_workers([status(0, range(4)), status(1, range(4), **change)], server_settings())


def test_an_engine_core_without_the_plugin_is_refused() -> None:
    check_confirmed([status(0, range(4), confirmed=True)], server_settings())
    with pytest.raises(SteeringError, match="an engine core runs without sarsteer's plugin"):
        check_confirmed([status(0, range(4), confirmed=False)], server_settings())
