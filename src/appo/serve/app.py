"""The endpoint over HTTP: routes, bounds of bodies and times, streams, and errors in the API's form.

    POST /v1/chat/completions       GET /v1/models, /v1/models/NAME       POST /inference/v1/generate       GET /health

A key comes as `Authorization: Bearer KEY`, or in the path: `/k/KEY/v1/..`; where the server has a secret, that is the
`Authorization`, and keys come in the path alone. Starlette routes and uvicorn serves; FastAPI would bring
documentation and a second form of errors.

Left out on purpose: TLS and rates (a proxy's), and OpenAI's other endpoints.
"""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from appo.serve.answers import ChatAnswer, generated
from appo.serve.api import ApiError, ChatRequest, GenerateRequest, cut, read_body
from appo.serve.endpoint import SHORT, SHORT_TURN, Endpoint, Wanted, aside
from appo.serve.keys import Account

PAUSE = 0.02  # seconds between two chunks of a stream, at least
DRAINED = 16  # times the largest body that is read and dropped, so that a client hears why
GONE = 499  # nobody reads it
UNREAD = (401, 408, 413, 429)  # errors that may come before the request has been read

logger = logging.getLogger(__name__)
Answering = Callable[[Account, Request], Awaitable[Any]]


def make_app(endpoint: Endpoint, api_key: str | None = None) -> Starlette:
    """The application.

    Args:
        endpoint: Answers.
        api_key: The secret that every request has to have; None for none.
    """
    doors = _Doors(endpoint, api_key)
    routes = [
        Route("/v1/models", doors.models),
        Route("/v1/models/{name:path}", doors.models),
        Route("/v1/chat/completions", _Posted(doors, doors.chat), methods=["POST"]),
        Route("/inference/v1/generate", _Posted(doors, doors.generate), methods=["POST"]),
    ]
    handlers: Any = {ApiError: _told, HTTPException: _not_found, Exception: _fault}
    return Starlette(
        routes=[*routes, Mount("/k/{key}", routes=routes), Route("/health", doors.health)],
        exception_handlers=handlers,
    )


async def _told(request: Request, error: ApiError) -> Response:
    # What is left of the request is not read.
    headers = {"connection": "close"} if error.status in UNREAD else None
    return JSONResponse(error.body, error.status, headers)


async def _not_found(request: Request, error: HTTPException) -> Response:
    what = f"{request.method} {request.url.path} is not served here"
    return JSONResponse(ApiError(error.status_code, f"{what}; see docs/serve.md.").body, error.status_code)


async def _fault(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, "the server failed; its log says why.").body, 500)


class _Doors:
    """What each route does."""

    def __init__(self, endpoint: Endpoint, api_key: str | None) -> None:
        self.endpoint, self.api_key = endpoint, api_key

    def key_of(self, request: Request) -> str:
        """The key of a request.

        Raises:
            ApiError: 401, for a wrong secret.
        """
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        bearer = bearer.strip() if scheme.lower() == "bearer" else ""
        in_path = request.path_params.get("key")
        if self.api_key is None:
            return bearer if in_path is None else in_path
        if not hmac.compare_digest(bearer.encode(), self.api_key.encode()):
            raise ApiError(401, "the API key is wrong; send it as Authorization: Bearer KEY.")
        return in_path or ""

    async def models(self, request: Request) -> Response:
        self.key_of(request)
        model = self.endpoint.model
        shown = {"id": model.name, "object": "model", "created": 0, "owned_by": "appo"}
        shown["max_model_len"] = model.context_length
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": [shown]})
        self.endpoint.check_model(name)
        return JSONResponse(shown)

    async def health(self, request: Request) -> Response:
        endpoint = self.endpoint
        body = {
            "status": "ok" if endpoint.thread.alive else "dead",
            "keys": len(endpoint.keys),
            "open_requests": endpoint.keys.open_requests,
            "turns": dict(endpoint.counts),
            "diverged": dict(endpoint.keys.diverged),
            "required_calls_left_out": endpoint.unheeded,
            "failed_steps": endpoint.thread.failures,
        }
        return JSONResponse(body, 200 if endpoint.thread.alive else 503)

    async def chat(self, account: Account, request: Request) -> Any:
        body = await self._body(request)
        asked: ChatRequest = await aside(len(body) < SHORT, read_body, ChatRequest, body)
        wanted = await self.endpoint.wanted_by_chat(account, asked, len(body))
        answer = ChatAnswer(asked, self.endpoint.model.tokenizer)
        if asked.stream:
            return _EventStream(self._streamed(account, wanted, answer), self.endpoint.bounds.seconds)
        turn = await _unless_gone(request, self.endpoint.write(account, wanted))
        return Response(status_code=GONE) if turn is None else JSONResponse(answer.whole(turn))

    async def generate(self, account: Account, request: Request) -> Any:
        body = await self._body(request)
        asked: GenerateRequest = await aside(len(body) < SHORT, read_body, GenerateRequest, body)
        wanted = self.endpoint.wanted_by_tokens(account, asked)
        turn = await _unless_gone(request, self.endpoint.write(account, wanted))
        if turn is None:
            return Response(status_code=GONE)
        name = self.endpoint.model.name
        return JSONResponse(generated(turn, name, asked.request_id, asked.sampling_params.logprobs is not None))

    async def _body(self, request: Request) -> bytes:
        """
        Raises:
            ApiError: 413 for one that is too long, which is read to its end but not kept, within bounds; 408 for one
                that does not come.
        """
        bounds, parts, size = self.endpoint.bounds, [], 0
        try:
            async with asyncio.timeout(bounds.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size <= bounds.body_bytes:
                        parts.append(part)
                    elif size > DRAINED * bounds.body_bytes:
                        break
        except TimeoutError:
            raise ApiError(408, f"the request did not come whole in {bounds.body_seconds:g} seconds.") from None
        if size > bounds.body_bytes:
            raise ApiError(413, f"the request is longer than {bounds.body_bytes:,} bytes; send less.")
        return b"".join(parts)

    async def _streamed(self, account: Account, wanted: Wanted, answer: ChatAnswer) -> AsyncIterator[dict[str, Any]]:
        """The chunks of an answer, the text as it comes; an error is a chunk, too."""
        told: asyncio.Queue[list[int] | None] = asyncio.Queue()
        task = asyncio.create_task(self.endpoint.write(account, wanted, told.put_nowait))
        task.add_done_callback(lambda _: told.put_nowait(None))
        assert wanted.prompt is not None
        try:
            yield answer.first()
            while (ids := await told.get()) is not None:
                while not told.empty() and (later := told.get_nowait()) is not None:
                    ids = later
                begun = wanted.prompt.dialect.begun
                thoughts, content = await aside(len(ids) < SHORT_TURN, begun, ids, wanted.ids)
                if chunk := answer.more(thoughts, _certain(content, wanted.cuts)):
                    yield chunk
                if (await asyncio.wait([task], timeout=PAUSE))[0]:
                    break
            for chunk in answer.last(await task):
                yield chunk
        except ApiError as error:
            yield error.body
        finally:
            task.cancel()


def _certain(text: str, stops: tuple[str, ...]) -> str:
    """A text up to the first stop text, or to what may be the beginning of one."""
    text = cut(text, stops)
    for length in range(max(map(len, stops), default=1) - 1, 0, -1):
        if any(text.endswith(stop[:length]) for stop in stops if len(stop) > length):
            return text[:-length]
    return text


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless_gone(request: Request, work: Any) -> Any:
    """What the work comes to; None where the client goes away first, and then the work is cancelled."""
    task, gone = asyncio.ensure_future(work), asyncio.create_task(_until_gone(request.receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for one in (task, gone):
            one.cancel()


class _Posted:
    """A route that a key posts to, from its first byte to the last one of its response."""

    def __init__(self, doors: _Doors, answer: Answering) -> None:
        self.doors, self.answer = doors, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, begin = Request(scope, receive), time.perf_counter()
        try:
            with self.doors.endpoint.keys.entered(self.doors.key_of(request)) as account:
                try:
                    response = await self.answer(account, request)
                    await response(scope, receive, send)
                finally:
                    account.asked_seconds += time.perf_counter() - begin
        except ClientDisconnect:
            pass  # before the request was here whole


class _EventStream:
    """A response of server-sent events; its source is closed where the client goes away or stops reading."""

    def __init__(self, chunks: AsyncIterator[dict[str, Any]], seconds: float) -> None:
        self.chunks, self.seconds = chunks, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, gone = asyncio.create_task(self._send(send)), asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, gone):
                task.cancel()
            (result, _) = await asyncio.gather(sending, gone, return_exceptions=True)
        if isinstance(result, Exception) and not isinstance(result, OSError | TimeoutError):
            raise result

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        async with aclosing(self.chunks) as chunks:  # type: ignore[type-var]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for chunk in chunks:
                await self._put(send, f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode(), True)
            await self._put(send, b"data: [DONE]\n\n", False)

    async def _put(self, send: Send, body: bytes, more: bool) -> None:
        message: Message = {"type": "http.response.body", "body": body, "more_body": more}
        await asyncio.wait_for(send(message), self.seconds)  # whoever does not read is not waited for any longer
