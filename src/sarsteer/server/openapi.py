"""The OpenAPI document: the schema of requests, responses and errors, which the routes check themselves."""

from __future__ import annotations

from typing import Any

from sarsteer.server.schemas import ChatRequest

_REF = "#/components/schemas/{model}"

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
}
_CHOICE = {
    "type": "object",
    "required": ["index", "message", "finish_reason"],
    "properties": {
        "index": {"type": "integer"},
        "message": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {"role": {"const": "assistant"}, "content": {"type": "string"}},
        },
        "finish_reason": {"enum": ["stop", "length", "content_filter"]},
    },
}
COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "system_fingerprint": {"type": "string"},
        "choices": {"type": "array", "items": _CHOICE},
        "usage": _USAGE,
        "sarsteer": {"type": "object"},
    },
}
_REFUSALS = {
    "/v1/chat/completions": (400, 401, 404, 408, 413, 415, 429, 500, 503),
    "/v1/models": (401,),
    "/v1/models/{name}": (401, 404),
    "/health": (503,),
    "/ready": (503,),
    "/metrics": (401, 403),
    "/sarsteer": (401,),
}
_OPEN = ("/health", "/ready")
"""Addresses that need no key."""


def document(generated: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with what it cannot read from the code."""
    schemas = generated.setdefault("components", {}).setdefault("schemas", {})
    request = ChatRequest.model_json_schema(ref_template=_REF)
    schemas |= request.pop("$defs", {})
    schemas |= {"ChatRequest": request, "ChatCompletion": COMPLETION, "Error": ERROR}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    generated["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in generated["paths"].items():
        for operation in methods.values():
            responses = operation["responses"]
            responses.pop("422", None)
            for status in _REFUSALS.get(path, ()):
                responses[str(status)] = {"description": "Refused.", "content": _json("Error")}
            if path not in _OPEN:
                operation["security"] = [{}, {"key": []}]
    chat = generated["paths"]["/v1/chat/completions"]["post"]
    chat["requestBody"] = {"required": True, "content": _json("ChatRequest")}
    chat["responses"]["200"]["content"] = {
        **_json("ChatCompletion"),
        "text/event-stream": {"schema": {"type": "string"}},
    }
    return generated


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=name)}}}
