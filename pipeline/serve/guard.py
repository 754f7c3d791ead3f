"""What every request passes: host, token, room, size and time."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from pipeline.serve.metrics import Metrics
from pipeline.serve.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = ("/", "/app.js", "/style.css", "/icon.svg", "/health")  # need no token: they hold no data
RETRY_AFTER_S = 1


class Guard:
    """ASGI middleware that refuses what a server cannot or may not answer, before it is read.

    Args:
        app: The application.
        settings: Limits.
        metrics: Counts requests.
    """

    def __init__(self, app: Any, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, answered = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        if (refusal := self._refusal(scope)) is not None:
            await _refuse(answer, *refusal)
        else:
            self.active += 1
            self.metrics.active.set(self.active)
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    await self.app(scope, self._bounded(receive), answer)
            except TimeoutError:
                if not answered:
                    limit = f"{self.settings.timeout_s:g} s"
                    await _refuse(answer, 504, f"not answered within {limit}; send it again")
            finally:
                self.active -= 1
                self.metrics.active.set(self.active)
        route = scope.get("route")
        path = getattr(route, "path", "other")
        self.metrics.requests.labels(path, str(answered)).inc()
        self.metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        settings = self.settings
        if settings.hosts is not None:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
            if name not in settings.hosts:
                return 421, f"host {name!r} is not this server; see --host"
        if settings.token is not None and scope["path"] not in OPEN:
            shown = headers.get(b"authorization", b"")
            if not hmac.compare_digest(shown, f"Bearer {settings.token}".encode()):
                return 401, "needs the header `Authorization: Bearer TOKEN`"
        if scope["method"] == "POST":
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > settings.max_bytes:
                return 413, _too_large(settings)
            if self.active >= settings.capacity:
                return 503, f"{self.active} requests are being answered; come back"
        return None

    def _bounded(self, receive: Receive) -> Receive:
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.settings.max_bytes:
                raise HTTPException(413, _too_large(self.settings))
            return message

        return bounded


HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    ),
]


def _too_large(settings: Settings) -> str:
    return f"larger than {settings.max_bytes >> 20} MiB; send a smaller file"


async def _refuse(send: Send, status: int, reason: str) -> None:
    # the connection stays open, and uvicorn discards what is left of the body: closed amid an
    # upload, most clients would see a broken connection in place of the answer
    body = json.dumps({"detail": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
