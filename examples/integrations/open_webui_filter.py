"""
title: sarsteer gate
description: Refuses requests for which the gate of a sarsteer server opens, whatever model they are for.
version: 0.1.0
requirements: httpx
"""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import BaseModel, Field


class Filter:
    """An Open WebUI filter: paste this file under Admin Panel, Functions."""

    class Valves(BaseModel):
        """The settings in Open WebUI."""

        url: str = Field("http://127.0.0.1:8000/v1", description="Address of sarsteer serve")
        key: str = Field("none", description="Key of a tenant with a gate")
        model: str = Field("sarsteer-tiny", description="The model that the server serves")
        refusal: str = Field("I am sorry, but I cannot help with that.", description="Shown instead of an answer")
        seconds: float = Field(30.0, description="How long to wait for a decision")

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def inlet(self, body: dict[str, Any], __user__: dict[str, Any] | None = None) -> dict[str, Any]:
        """Called before a request goes to its model. An exception ends the request, and its text is shown.

        Without a decision the request ends too: the server cannot be reached, or its tenant has no gate.
        """
        request = {"model": self.valves.model, "messages": body.get("messages") or [], "max_tokens": 1}
        headers = {"Authorization": f"Bearer {self.valves.key}"}
        try:
            async with httpx.AsyncClient(timeout=self.valves.seconds) as client:
                address = f"{self.valves.url.rstrip('/')}/chat/completions"
                response = await client.post(address, json=request, headers=headers)
        except httpx.HTTPError as error:
            raise RuntimeError(f"the sarsteer server cannot be reached ({type(error).__name__})") from error
        if response.status_code != 200:
            raise RuntimeError(f"the sarsteer server answered {response.status_code}: {response.text[:300]}")
        decision = response.headers.get("X-Sarsteer-Decision", "nothing")
        if decision == "open":
            raise RuntimeError(self.valves.refusal)
        if decision != "closed":
            raise RuntimeError(f"the sarsteer server reports {decision!r}; give its tenant a gate, and expose it")
        return body
