"""LiteLLM against a server: its route, and the guardrail. Settings as JSON on standard input; prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm
from litellm.exceptions import GuardrailRaisedException

from examples.integrations.litellm_guardrail import SarsteerGuardrail


def guarded(settings: dict[str, Any], messages: Any, **changes: Any) -> str:
    options = {"sarsteer_url": settings["url"], "sarsteer_key": settings["gated"], "sarsteer_model": settings["model"]}
    guardrail = SarsteerGuardrail(guardrail_name="sarsteer", event_hook="pre_call", **{**options, **changes})
    data = {"model": "gpt-audio", "messages": messages}
    try:
        returned = asyncio.run(guardrail.async_pre_call_hook(None, None, data, "acompletion"))
    except GuardrailRaisedException as error:
        return f"{error.status_code} {error.blocked_content}: {error}"
    return "passed" if returned == data else f"changed: {returned}"


def main() -> None:
    settings = json.load(sys.stdin)
    route: dict[str, Any] = {"model": f"openai/{settings['model']}", "api_base": settings["url"]}
    route |= {"api_key": settings["key"], "max_tokens": settings["tokens"], "num_retries": 0}
    answers = [litellm.completion(messages=one, **route).choices[0].message.content for one in settings["requests"]]
    chunks = litellm.completion(messages=settings["requests"][0], stream=True, **route)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    found = {
        "answers": answers,
        "streamed": streamed,
        "guarded": [guarded(settings, one) for one in settings["requests"]],
        "no gate": guarded(settings, settings["requests"][0], sarsteer_key=settings["key"]),
        "no server": guarded(settings, settings["requests"][0], sarsteer_url="http://127.0.0.1:9/v1"),
        "wrong key": guarded(settings, settings["requests"][0], sarsteer_key="x" * 20),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
