"""READ FIRST of the gateway: which path leads where, and one request from its headers to its last byte."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from glimprouter.config import SIDES, Config
from glimprouter.engines.pool import Pool
from glimprouter.gateway.admission import Admission
from glimprouter.gateway.aliases import NAMES, ROUTED
from glimprouter.gateway.answering import Reply, Send, write_answer
from glimprouter.gateway.auth import Client, Clients
from glimprouter.gateway.body import ClientGone, Receive, parse_body, read_body
from glimprouter.gateway.errors import ApiError, api_error, refused
from glimprouter.gateway.metrics import Metrics
from glimprouter.gateway.reply import Form, written_tokens
from glimprouter.gateway.settings import Settings
from glimprouter.gateway.wire import Asked, chat_asked, completion_asked
from glimprouter.pair import Pair
from glimprouter.router import Router

log = logging.getLogger("glimprouter.gateway")

MOST_HEADERS = 100
MOST_HEADER_BYTES = 32_768
CHAT_PATH, COMPLETIONS_PATH = "/v1/chat/completions", "/v1/completions"
HOT: dict[str, Callable[[dict[str, Any], Config], Asked]] = {
    CHAT_PATH: chat_asked,
    COMPLETIONS_PATH: completion_asked,
}


@dataclass(frozen=True, slots=True)
class Live:
    """What a request is served with from its beginning to its end, whatever is reloaded meanwhile."""

    settings: Settings
    pair: Pair
    router: Router
    clients: Clients


class Gateway:
    """An ASGI application. `live` may be replaced at any time."""

    def __init__(self, settings: Settings, pair: Pair) -> None:
        self.metrics = Metrics()
        limits = settings.gateway
        self.admission = Admission(
            max_in_flight=limits.max_in_flight, max_queue=limits.max_queue, queue_timeout_s=limits.queue_timeout_s
        )
        self.live = Live(settings, pair, pair.router(), Clients(settings.gateway.keys))
        self.metrics.in_flight.set_function(lambda: self.admission.in_flight)
        self.metrics.queued.set_function(lambda: self.admission.queued)
        self.tasks: set[asyncio.Task[None]] = set()
        self.ending = False
        self._pages = Starlette(
            routes=[
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
                Route("/v1/models", self._models),
                Route("/v1/models/{name}", self._model),
            ],
            exception_handlers={404: _not_found, 405: _not_allowed},
        )

    def reload(self, settings: Settings) -> None:
        """Serve what comes from now on with other settings; the pair stays. Answers under way keep theirs."""
        limits = settings.gateway
        self.admission.set_limits(
            max_in_flight=limits.max_in_flight, max_queue=limits.max_queue, queue_timeout_s=limits.queue_timeout_s
        )
        clients = Clients(settings.gateway.keys, before=self.live.clients)
        self.live = Live(settings, self.live.pair, self.live.router, clients)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun = time.perf_counter()
        path = scope["path"]
        request_id = uuid.uuid4().hex
        reply = Reply(send, [(b"x-request-id", request_id.encode())])
        try:
            _check_headers(scope["headers"])
            if path in HOT:
                await self._hot(scope, receive, reply, request_id, begun)
            else:
                if path.startswith("/v1/"):
                    self.live.clients.client(scope["headers"])
                await self._pages(scope, receive, send)
                reply.status = 200
        except ClientGone:
            reply.status = reply.status or 499
        except Exception as error:
            told = api_error(error)
            if told.status == 500:
                # Its kind alone: what went wrong inside may quote what was asked.
                log.error("request %s failed with %s", request_id, type(error).__name__)
            await reply.fail(told)
        finally:
            if path in HOT:
                self.metrics.requests.labels(path, reply.status or 499, reply.client).inc()
                self.metrics.seconds.labels(path).observe(time.perf_counter() - begun)

    async def _hot(self, scope: dict[str, Any], receive: Receive, reply: Reply, request_id: str, begun: float) -> None:
        """One request for text: who asks, for what, and the answer."""
        if scope["method"] != "POST":
            raise ApiError(405, "send POST", code="method_not_allowed")
        path, headers, live = scope["path"], scope["headers"], self.live
        asker = live.clients.client(headers)
        reply.client = asker.name
        limits = live.settings.gateway
        body = await read_body(headers, receive, most_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
        asked = HOT[path](parse_body(body, most_depth=limits.max_depth), live.settings.config)
        if not asker.may_use(asked.target.name):
            raise ApiError(403, "this key may not use that model", param="model", code="model_not_allowed")
        work = self._answer(live, asker, asked, reply, request_id, path, begun)
        await self._until_done_or_gone(work, receive)

    async def _answer(
        self, live: Live, asker: Client, asked: Asked, reply: Reply, request_id: str, path: str, begun: float
    ) -> None:
        limits = live.settings.gateway
        deadline_s = min(limits.answer_timeout_s, (asked.deadline_ms or float("inf")) / 1000)
        form = Form(
            id_=request_id, created=int(time.time()), model=asked.model, chat=path == CHAT_PATH,
            settings=limits, usage=asked.include_usage,
        )  # fmt: skip
        if asked.passed is not None:
            raise refused(
                f"{asked.passed_for} is for one model alone, and this gateway passes nothing on yet",
                asked.passed_for, code="not_routed",
            )  # fmt: skip

        def ended(trace: Any) -> None:
            asker.spent(written_tokens(trace) + trace.prompt_tokens)
            self.metrics.answer(trace)

        try:
            with asker.asking():
                async with self.admission.place():
                    self.metrics.before_router_seconds.observe(time.perf_counter() - begun)
                    async with asyncio.timeout(deadline_s):
                        await write_answer(
                            reply, live.router, asked, form, begun=begun, heartbeat_s=limits.heartbeat_s,
                            on_step=lambda event: self.metrics.step(event.step), on_trace=ended,
                        )  # fmt: skip
        except TimeoutError:
            raise ApiError(504, "the answer took longer than it may", code="deadline_exceeded", retry=False) from None
        except asyncio.CancelledError:
            if self.ending:
                raise ApiError(
                    503, "the gateway is going down", code="shutting_down", retry=not reply.streams
                ) from None
            raise

    async def _until_done_or_gone(self, work: Any, receive: Receive) -> None:
        """Run an answer; where its client hangs up first, stop it at once. Raises what it raises, and ClientGone."""
        answer = asyncio.create_task(work)
        self.tasks.add(answer)
        gone = asyncio.create_task(_hang_up(receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientGone
            answer.result()
        finally:
            self.tasks.discard(answer)
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    def is_ready(self) -> bool:
        engines = (self.live.pair.small, self.live.pair.large)
        return not self.admission.draining and all(
            any(one.breaker != "open" and not one.unused_because for one in engine.replicas)
            for engine in engines
            if isinstance(engine, Pool)
        )

    async def _livez(self, _: HttpRequest) -> Response:
        return _json({"status": "alive"})

    async def _readyz(self, _: HttpRequest) -> Response:
        ready = self.is_ready()
        return _json({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def _models(self, _: HttpRequest) -> Response:
        return _json({"object": "list", "data": [await self._described(name) for name in NAMES]})

    async def _model(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        if name not in NAMES:
            return _error(ApiError(404, "no such model", param="model", code="model_not_found"))
        return _json(await self._described(name))

    async def _described(self, name: str) -> dict[str, Any]:
        pair = self.live.pair
        facts = {"small": await pair.small.facts(), "large": await pair.large.facts()}
        lengths = [facts[side].context_tokens for side in SIDES]
        described: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "glimprouter"}
        described["max_model_len"] = min(lengths) if name == ROUTED else facts[name].context_tokens
        if name == ROUTED:
            routing = self.live.settings.config.routing
            described["glimprouter"] = {
                "small": facts["small"].model,
                "large": facts["large"].model,
                "policy": routing.policy,
                "threshold_nats": routing.threshold if routing.threshold is not None else pair.threshold_nats,
                "answer_by": routing.answer_by,
            }
        return described


def _check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > MOST_HEADER_BYTES:
        raise ApiError(431, "the headers are too many or too long", code="headers_too_large")


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _error(error: ApiError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.body(), error.status, headers, media_type="application/json")


async def _not_found(_: HttpRequest, __: Exception) -> Response:
    return _error(ApiError(404, "there is nothing at this path", code="not_found"))


async def _not_allowed(_: HttpRequest, __: Exception) -> Response:
    return _error(ApiError(405, "this path does not take that method", code="method_not_allowed"))
