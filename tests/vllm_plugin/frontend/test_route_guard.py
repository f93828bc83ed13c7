"""Issue 13, item 8: a steered server opens only the routes whose requests are checked."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sarsteer.vllm.frontend.route_guard import RouteGuard
from sarsteer.vllm.request_options import ROUTES


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    async def answer(path: str) -> str:
        return path

    app.add_api_route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE"])
    app.add_middleware(RouteGuard)
    return app


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_known_routes_pass(app: FastAPI, route: str) -> None:
    assert TestClient(app).post(route).status_code == 200


@pytest.mark.parametrize(
    "route",
    [
        "/v1/completions",
        "/v1/completions/",
        "//v1/completions",
        "/v1/chat/completions/",
        "/v1/responses",
        "/v1/messages",
        "/inference/v1/generate",
        "/invocations",
        "/generative_scoring",
        "/collective_rpc",
        "/v1/load_lora_adapter",
        "/update_weights",
        "/a-route-of-tomorrow",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_all_others_are_refused(app: FastAPI, route: str, method: str) -> None:
    answer = TestClient(app).request(method, route)
    assert answer.status_code == 403
    assert "is not open" in answer.json()["error"]["message"]


def test_reading_passes(app: FastAPI) -> None:
    for route in ("/health", "/metrics", "/v1/models", "/sarsteer"):
        assert TestClient(app).get(route).status_code == 200


def test_the_operator_opens_a_route(monkeypatch: Any) -> None:
    monkeypatch.setenv("SARSTEER_ALLOW_REQUEST", "logit_bias,/v1/completions")
    app = FastAPI()
    app.post("/v1/completions")(lambda: "answer")
    app.add_middleware(RouteGuard)
    assert TestClient(app).post("/v1/completions").status_code == 200
    assert TestClient(app).post("/v1/responses").status_code == 403


def test_behind_a_reverse_proxy_the_same_routes_are_open(app: FastAPI) -> None:
    client = TestClient(app, root_path="/proxy")
    assert client.post("/proxy/v1/chat/completions").status_code == 200
    assert client.post("/proxy/v1/completions").status_code == 403
    assert client.post("/v1/completions").status_code == 403


def test_websockets_are_closed(app: FastAPI) -> None:
    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/v1/realtime"):
        pass
