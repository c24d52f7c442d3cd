"""A gateway's life: the pair opened, two ports served, the file watched, what is under way drained in the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from glimprouter.errors import ConfigError, GlimprouterError
from glimprouter.gateway.app import Gateway
from glimprouter.gateway.settings import Settings, load_settings
from glimprouter.pair import open_pair

log = logging.getLogger("glimprouter.gateway")
WATCH_S = 2.0
ENDING_S = 5.0
"""How long answers that were broken off at the drain's deadline have for their error event."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are this module's business."""
        yield


async def serve(path: Path | None, settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises InputError where the pair or a port is not to be had."""
    config, limits = settings.config, settings.gateway
    api_socket = _bound(limits.host, limits.port, "port")
    sockets = [api_socket]
    if limits.admin_port:
        sockets.append(_bound(limits.admin_host, limits.admin_port, "admin_port"))
    async with open_pair(
        config.small, config.large, names=config.models, parallel=limits.local_parallel,
        reward=config.reward,
        speculate=config.speculate, routing=config.routing,
    ) as pair:  # fmt: skip
        gateway = Gateway(settings, pair)
        servers = [_server(app) for app in (gateway, _admin(gateway))[: len(sockets)]]
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        changed = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, changed.set)
        running = [
            asyncio.create_task(server.serve(sockets=[one])) for server, one in zip(servers, sockets, strict=True)
        ]
        watching = asyncio.create_task(_watch(path, gateway, changed)) if path else None
        log.warning("serving on http://%s:%d", *api_socket.getsockname()[:2])
        try:
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({stopped, *running}, return_when=asyncio.FIRST_COMPLETED)
            await drain(gateway, limits.drain_s)
        finally:
            if watching is not None:
                watching.cancel()
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*running)


async def drain(gateway: Gateway, drain_s: float) -> None:
    """Take nothing new; wait for what is under way; break off what is left at the deadline, with an error event."""
    gateway.admission.draining = True
    if gateway.tasks:
        await asyncio.wait(set(gateway.tasks), timeout=drain_s)
    gateway.ending = True
    for task in set(gateway.tasks):
        task.cancel()
    if gateway.tasks:
        await asyncio.wait(set(gateway.tasks), timeout=ENDING_S)


async def _watch(path: Path, gateway: Gateway, changed: asyncio.Event) -> None:
    """Read the file anew on SIGHUP and when it has changed. A bad one is named, and the old one holds."""
    seen = _stamp(path)
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), WATCH_S)
        if not changed.is_set() and _stamp(path) == seen:
            continue
        changed.clear()
        seen = _stamp(path)
        try:
            gateway.reload(load_settings(path))
        except GlimprouterError as error:
            gateway.metrics.reloads.labels("refused").inc()
            log.error("the old settings hold: %s", error)
        else:
            gateway.metrics.reloads.labels("taken").inc()


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _bound(host: str, port: int, field: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
    except OSError as error:
        one.close()
        raise ConfigError(
            f"gateway.{field}: {host}:{port} is not to be had ({error.strerror}); give another", field=field
        ) from error
    return one


def _server(app: Any) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )


def _admin(gateway: Gateway) -> Starlette:
    async def metrics(_: HttpRequest) -> Response:
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4")

    async def ready(_: HttpRequest) -> Response:
        return Response(status_code=200 if gateway.is_ready() else 503)

    return Starlette(routes=[Route("/metrics", metrics), Route("/readyz", ready)])
