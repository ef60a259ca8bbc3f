"""The gateway as an ASGI application: /router/rest, and the control endpoints under /_sandbox/."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .control import Control
from .desk import Arrival, Desk, HttpRequest, Reply

__all__ = ["LONGEST_BODY", "application"]

LONGEST_BODY: Final = 1 << 20
"""Bytes of a request's body."""
_BODY_SECONDS: Final = 30.0
Abort = Callable[[tuple[str, int]], None]
"""Resets the connection of the client at (host, port)."""


class _TooLarge(Exception):
    """The body is larger than LONGEST_BODY."""


def application(desk: Desk, control: Control, abort: Abort) -> Starlette:
    """The whole application."""
    app = Starlette(
        routes=[
            Route("/router/rest", _Rest(desk, abort)),
            Route("/_sandbox/{path:path}", _Controls(control)),
        ]
    )
    app.router.redirect_slashes = False
    return app


class _Rest:
    """/router/rest, with any HTTP method: the desk itself refuses what the platform refuses."""

    def __init__(self, desk: Desk, abort: Abort) -> None:
        self._desk = desk
        self._abort = abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await _body(request, send)
        if body is None:
            return
        arrival = self._desk.arrive(_http(request, body))
        slow = arrival.slow
        if slow is not None and not slow.acted and await _left_within(slow.seconds, receive):
            self._desk.left(arrival)
            return
        reply = self._desk.answer(arrival)
        if slow is not None and slow.acted and await _left_within(slow.seconds, receive):
            return
        await self._send(arrival, reply, scope, receive, send)

    async def _send(self, arrival: Arrival, reply: Reply, scope: Scope, receive: Receive, send: Send) -> None:
        if not reply.reset:
            response = Response(reply.body, reply.status, reply.headers)
            await response(scope, receive, send)
            return
        if reply.body:
            headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
            headers.append((b"content-length", str(len(reply.body)).encode()))
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            half = reply.body[: len(reply.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
        self._abort(scope["client"])
        # Only a server that has seen the connection go takes it well that no answer follows.
        await _left_within(_BODY_SECONDS, receive)


class _Controls:
    """/_sandbox/: everything needs the token."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await _body(request, send)
        if body is None:
            return
        status, document = self._control.handle(
            request.method,
            request.path_params["path"],
            request.headers.get("authorization", ""),
            body,
        )
        response = Response(
            json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"),
            status,
            {"Content-Type": "application/json", "Cache-Control": "no-store"},
        )
        await response(scope, receive, send)


async def _body(request: Request, send: Send) -> bytes | None:
    """The whole body; None when it could not be had, which has been answered."""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await _read(request)
    except ClientDisconnect:
        return None
    except _TooLarge:
        refusal = PlainTextResponse("the request is too large", 413, {"Connection": "close"})
    except TimeoutError:
        refusal = PlainTextResponse("the request did not come to its end", 408, {"Connection": "close"})
    await refusal(request.scope, request.receive, send)
    return None


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY:
            raise _TooLarge
    return bytes(body)


async def _left_within(seconds: float, receive: Receive) -> bool:
    """Wait, and tell whether the client went away meanwhile. The body must have been read."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


def _http(request: Request, body: bytes) -> HttpRequest:
    client = request.client
    return HttpRequest(
        request.method,
        request.scope["query_string"],
        dict(request.headers.items()),
        body,
        client.port if client else 0,
    )
