"""Log and count every request once, and add the headers that every answer has."""

import logging
import time
from collections.abc import MutableMapping
from typing import Any

from product1m.serving.web.limits import App, Message, Receive, Send
from product1m.serving.web.metrics import ServerMetrics

logger = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: a page loads from this server alone, and runs nothing inline."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_STATIC = "/static/…"
_QUIET = ("/healthz", "/readyz", "/metrics", "/picture", "/examples/{number}", _STATIC)
"""Paths asked every few seconds, or many times for one search; logged only if they fail."""


class RequestRecord:
    """ASGI middleware: logs and counts a request without its photo and title."""

    def __init__(self, app: App, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request and record how."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_recorded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
        route = scope.get("route")
        is_static = scope["path"].startswith("/static/")
        path = getattr(route, "path", "") or (_STATIC if is_static else "other")
        self._metrics.requests.labels(path, status).inc()
        if path in _QUIET and status < 400:
            return
        fields = {"method": scope["method"], "path": path, "status": status}
        fields |= {"milliseconds": round(1000 * seconds)} | scope.get("state", {}).get("fields", {})
        logger.info(
            "%s %s %d in %.0f ms",
            scope["method"],
            path,
            status,
            1000 * seconds,
            extra={"fields": fields},
        )
