"""``POST /v1/chat/completions``."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sarsteer.server.client import Client, ClientGone, read_body
from sarsteer.server.completions import DONE, Completion, event
from sarsteer.server.conversation import read_messages
from sarsteer.server.errors import ApiError, api_error
from sarsteer.server.exchange import Exchange
from sarsteer.server.job import Failed, Finished, Job, Piece, Started
from sarsteer.server.outbox import Inbox
from sarsteer.server.schemas import ChatRequest, parse_request
from sarsteer.server.service import Service
from sarsteer.server.stream import EventStream

GONE = 499
"""Status in logs and metrics of a request whose client left."""

_DECODERS = 4
"""Requests whose clips are decoded at once."""


class ChatEndpoint:
    """Answers requests with the service's model."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decoders: anyio.CapacityLimiter | None = None

    async def __call__(self, request: Request) -> Response:
        """The response to one request.

        Raises:
            ApiError: the request is refused.

        """
        service = self._service
        tenant = service.tenant_for(request.headers.get("authorization"))
        exchange = Exchange(
            request_id=f"req-{secrets.token_hex(12)}",
            tenant=tenant,
            metrics=service.metrics,
            audit=service.audit,
            model=service.model_digest,
            content=service.settings.audit_content,
        )
        try:
            return await self._respond(request, exchange)
        except ClientGone:
            exchange.close(GONE, "client_gone")
            return Response(status_code=GONE)
        except asyncio.CancelledError:
            exchange.close(GONE, "cancelled")
            raise
        except Exception as error:
            refused = api_error(error)
            exchange.close(refused.status, refused.code)
            refused.headers |= exchange.headers()
            raise refused from error

    async def _respond(self, request: Request, exchange: Exchange) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":  # a web page could send other types without the user's consent
            raise ApiError(415, "send the request with Content-Type: application/json", code="unsupported_media_type")
        scheduler = self._service.scheduler
        place = scheduler.reserve(exchange.tenant)
        inbox: Inbox = asyncio.Queue()
        try:
            body = await read_body(request, self._service.settings.limits)
            if self._decoders is None:
                self._decoders = anyio.CapacityLimiter(_DECODERS)
            chat, job = await anyio.to_thread.run_sync(self._read, body, exchange, inbox, limiter=self._decoders)
            del body
            exchange.job = job
            scheduler.submit(job, place)
        except BaseException:
            place.release()
            raise
        client = Client(request)

        def end() -> None:
            client.close()
            if not exchange.complete:
                scheduler.cancel(job)

        def end_stream() -> None:
            end()
            exchange.close(GONE, "client_gone")  # no effect if the exchange was closed already

        streams = False
        try:
            first = await client.wait(inbox.get())  # headers wait for the gate's decision
            if isinstance(first, Failed):
                raise first.error
            assert isinstance(first, Started)
            exchange.started(first)
            completion = Completion(self._service.settings.model_name, self._fingerprint(exchange))
            if not job.stream:
                return await self._whole(chat, exchange, completion, client, inbox)
            streams = True
            events = self._events(chat, exchange, completion, client, inbox)
            return EventStream(events, end_stream, exchange.headers(), self._service.settings.limits.send_seconds)
        finally:
            if not streams:
                end()

    def _read(self, body: bytes, exchange: Exchange, inbox: Inbox) -> tuple[ChatRequest, Job]:
        """Parse a request and decode its clips; runs in a thread of its own."""
        service = self._service
        limits, model = service.settings.limits, service.model
        assert model is not None
        chat = parse_request(body)
        if chat.model != service.settings.model_name:
            raise ApiError(
                404,
                f"this server has no such model; it serves {service.settings.model_name!r}",
                code="model_not_found",
                param="model",
            )
        conversation = read_messages(
            chat.messages, limits, model.sampling_rate if "audio" in model.modalities else None
        )
        model.read(conversation, 0)  # what the model does not take is an error now, not in a batch
        longest = min(limits.tokens, exchange.tenant.max_tokens or limits.tokens)
        asked = chat.max_completion_tokens or chat.max_tokens
        if asked is not None and asked > longest:
            raise _invalid(f"an answer has at most {longest} tokens", "max_tokens")
        if (chat.n or 1) > limits.choices:
            raise _invalid(f"at most {limits.choices} answers to a request", "n")
        temperature = chat.temperature or 0.0
        if temperature > limits.temperature:
            raise _invalid(f"the highest temperature is {limits.temperature:g}", "temperature")
        if chat.stream_options is not None and not chat.stream:
            raise _invalid("stream_options need stream: true", "stream_options")
        return chat, Job(
            tenant=exchange.tenant,
            conversation=conversation,
            max_tokens=asked or longest,
            notify=service.outbox.to(inbox),
            exact=asked is not None,
            n=chat.n or 1,
            stops=_stops(chat.stop),
            temperature=temperature,
            top_p=1.0 if chat.top_p is None else chat.top_p,
            seed=chat.seed,
            stream=bool(chat.stream),
        )

    async def _whole(
        self, chat: ChatRequest, exchange: Exchange, completion: Completion, client: Client, inbox: Inbox
    ) -> Response:
        while not exchange.complete:
            event = await client.wait(inbox.get())
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                exchange.answers.append(event)
        exchange.close(200)
        asked = chat.sarsteer is not None and chat.sarsteer.decision
        body = completion.whole(exchange.answers, exchange.prompt_tokens, exchange.described() if asked else None)
        return JSONResponse(body, headers=exchange.headers())

    async def _events(
        self, chat: ChatRequest, exchange: Exchange, completion: Completion, client: Client, inbox: Inbox
    ) -> AsyncGenerator[bytes, None]:
        """The events of a stream."""
        job = exchange.job
        assert job is not None
        asked = chat.sarsteer is not None and chat.sarsteer.decision
        for index in range(job.n):
            decision = exchange.described() if asked and index == 0 else None
            yield completion.chunk(index, {"role": "assistant", "content": ""}, decision=decision)
        while not exchange.complete:
            news = await client.wait(inbox.get())
            if isinstance(news, Failed):
                error = api_error(news.error)
                exchange.close(error.status, error.code)
                yield event(error.body)
                return
            if isinstance(news, Piece):
                yield completion.chunk(news.index, {"content": news.text})
            elif isinstance(news, Finished):
                exchange.answers.append(news)
                yield completion.chunk(news.index, {}, news.reason)
        if chat.stream_options is not None and chat.stream_options.include_usage:
            yield completion.usage_chunk(exchange.prompt_tokens, exchange.answers)
        exchange.close(200)
        yield DONE

    def _fingerprint(self, exchange: Exchange) -> str:
        """Identifies weights and, unless the tenant hides it, steering: equal for equal answers to a seed."""
        return f"sarsteer-{self._service.model_digest[:8]}-{exchange.tenant.strength.digest[:8]}"


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > 4 or any(not 0 < len(one) <= 256 for one in stops):
        raise _invalid("at most 4 texts of 1 to 256 characters", "stop")
    return tuple(stops)


def _invalid(message: str, param: str) -> ApiError:
    return ApiError(400, f"{param}: {message}", code="invalid_value", param=param)
