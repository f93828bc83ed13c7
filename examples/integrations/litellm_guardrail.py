"""A LiteLLM guardrail that listens: requests for any model are first judged by the gate of a sarsteer server.

Guards that read transcripts miss how a request is spoken, and requests whose audio is passed on unchanged are not
judged at all. This one sends the conversation, audio included, to ``sarsteer serve`` and asks for one token. If the
gate is open, the request is refused, whatever model it was for. If the server cannot be reached, or its tenant has no
gate or hides its decisions, the request is refused as well.

Put this file beside LiteLLM's ``config.yaml``; see ``litellm_config.yaml``.
"""

from __future__ import annotations

import os
from typing import Any

import httpx
from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_guardrail import CustomGuardrail

ROLES = ("system", "developer", "user", "assistant")
PARTS = ("text", "input_audio", "audio_url")


class SarsteerGuardrail(CustomGuardrail):
    """Refuses requests for which the gate opens.

    Args:
        sarsteer_url: address of the server, such as ``http://127.0.0.1:8000/v1``; ``SARSTEER_URL`` by default.
        sarsteer_key: key of a tenant with a gate; ``SARSTEER_KEY`` by default.
        sarsteer_model: the model that the server serves; ``SARSTEER_MODEL`` by default.
        refusal: the error message that the client gets.
        seconds: how long to wait for the decision.
        options: LiteLLM's own, such as ``guardrail_name`` and ``default_on``.

    """

    def __init__(
        self,
        sarsteer_url: str | None = None,
        sarsteer_key: str | None = None,
        sarsteer_model: str | None = None,
        refusal: str = "I am sorry, but I cannot help with that.",
        seconds: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._url = (sarsteer_url or os.environ["SARSTEER_URL"]).rstrip("/") + "/chat/completions"
        self._headers = {"Authorization": f"Bearer {sarsteer_key or os.environ.get('SARSTEER_KEY', 'none')}"}
        self._model = sarsteer_model or os.environ["SARSTEER_MODEL"]
        self._refusal, self._seconds = refusal, seconds

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: Any
    ) -> Any:
        """Called by LiteLLM before a request goes to its model."""
        messages = data.get("messages")
        if not messages:
            return data
        decision = await self._decision(messages)
        if decision == "closed":
            return data
        raise GuardrailRaisedException(
            guardrail_name=self.guardrail_name,
            message=self._refusal,
            should_wrap_with_default_message=False,
            blocked_content=True,
        )

    async def _decision(self, messages: list[dict[str, Any]]) -> str:
        """``open`` or ``closed``; raises if the server did not decide."""
        body = {"model": self._model, "messages": [_readable(m) for m in messages], "max_tokens": 1}
        try:
            async with httpx.AsyncClient(timeout=self._seconds) as client:
                response = await client.post(self._url, json=body, headers=self._headers)
        except httpx.HTTPError as error:
            raise self._undecided(f"the sarsteer server cannot be reached ({type(error).__name__})", 503) from error
        if response.status_code != 200:
            status = response.status_code if response.status_code in (400, 413, 429) else 503
            raise self._undecided(f"the sarsteer server answered {response.status_code}: {response.text[:300]}", status)
        decision = response.headers.get("X-Sarsteer-Decision", "nothing")
        if decision not in ("open", "closed"):
            raise self._undecided(
                f"the sarsteer server reports {decision!r}; give its tenant a gate, and expose it", 503
            )
        return decision

    def _undecided(self, message: str, status: int) -> GuardrailRaisedException:
        return GuardrailRaisedException(guardrail_name=self.guardrail_name, message=message, status_code=status)


def _readable(message: dict[str, Any]) -> dict[str, Any]:
    """A message as the server takes it. Raises nothing: what the server does not know, such as a tool's, it refuses."""
    content = message.get("content")
    if message.get("role") not in ROLES or not isinstance(content, list):
        return {"role": message.get("role"), "content": content}
    return {"role": message["role"], "content": [part for part in content if part.get("type") in PARTS] or content}
