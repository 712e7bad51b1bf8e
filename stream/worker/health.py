"""Serve a role's HTTP endpoints: /livez, /readyz with reasons, /metrics, /resume. Start at Health.serve."""

import time
from collections.abc import Iterable
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from stream.worker.role_metrics import role_metrics

SILENT_SECONDS = 5.0  # ten heartbeats
RESUME_HEADER = "X-Footfall-Resume"

log = structlog.get_logger()


class Health:
    """Serve from process start; `app` is set once it is built, so a role that loads its model is not ready."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.app: Any = None
        self._runner: web.AppRunner | None = None
        self._url = ""
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def not_ready(self) -> list[str]:
        """Return the reasons why the role is not ready; an empty list means ready."""
        app = self.app
        if app is None:
            return ["loading: checking topics and loading the model"]
        reasons = []
        if app.rebalancing:
            reasons.append("rebalancing: waiting for the partition assignment")
        if app.store is not None and app.store.restoring:
            reasons.append("restoring: reading rows from the changelog")
        if not app.tables.actives_ready:
            reasons.append("joining: no partition assignment yet")
        if (silent := app.consumer.silent_seconds()) > SILENT_SECONDS:
            reasons.append(f"broker: no heartbeat response for {silent:.0f} s")
        if app.watch.missing:
            reasons.append(f"topics: found none named {', '.join(sorted(app.watch.missing))}, expected them: they were deleted")
        if unread := app.unread_partitions():
            longest = max(unread, key=lambda tp: unread[tp])
            reasons.append(
                f"unread: {len(unread)} partitions, {longest[0]}/{longest[1]} for {unread[longest]:.0f} s: the broker sends no "
                "records of them"
            )
        since = None if app.barrier is None else app.barrier.flushing_since
        if since is not None and (waiting := time.monotonic() - since) > SILENT_SECONDS:
            reasons.append(f"flush: no acknowledgement of rows and outputs for {waiting:.0f} s")
        if app.requests is not None and (waiting := app.requests.waiting()):
            reasons.append(f"held: {waiting}")
        if app.limit.paused:
            reasons.append(
                f"paused: {app.limit.paused}; see `footfall dlq ls`, fix the cause, then run `footfall dlq resume {self._url}` "
                "or restart this worker"
            )
        return reasons

    def collect(self) -> Iterable[Metric]:
        """Return the role's metrics; the registry calls this on every scrape."""
        return () if self.app is None else role_metrics(self.app, ready=not self.not_ready())

    async def serve(self, host: str, port: int) -> int:
        """Start the server and return its port."""
        server = web.Application(client_max_size=1 << 16)
        server.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.post("/resume", self._resume),
            ]
        )
        self._runner = web.AppRunner(server, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        port = int(self._runner.addresses[0][1])
        self._url = f"http://{host}:{port}"
        return port

    async def close(self) -> None:
        """Stop the server."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "role": self.role})

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = self.not_ready()
        body: dict[str, Any] = {"ready": not reasons, "role": self.role, "reasons": reasons}
        if self.app is not None:
            body["unreachable"] = [f"{tp.topic}/{tp.partition}" for tp in self.app.alignment.unreachable_partitions()]
        if self.app is not None and self.app.store is not None:
            body |= {"restored": self.app.store.progress.read, "total": self.app.store.progress.total}
        return web.json_response(body, status=503 if reasons else 200)

    async def _resume(self, request: web.Request) -> web.Response:
        """Resume a paused role; the required header keeps web pages from sending this request."""
        if RESUME_HEADER not in request.headers:
            return web.json_response(
                {"error": f"found no header {RESUME_HEADER}, expected it: run `footfall dlq resume`"}, status=403
            )
        was = "" if self.app is None else self.app.limit.paused
        if was:
            self.app.limit.resume()
            log.warning("resumed", pause_reason=was, action="reading continues; the dead-letter limit counts from zero")
        return web.json_response({"role": self.role, "was": was})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
