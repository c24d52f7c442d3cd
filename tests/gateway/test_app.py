"""The gateway as its clients meet it, over scripted engines, without a socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from hashlib import sha256
from typing import Any

import orjson
import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from glimprouter.config import Config
from glimprouter.engines.scripted import Line, Pace, ScriptedEngine
from glimprouter.gateway.app import Gateway
from glimprouter.gateway.settings import GatewaySettings, Key, Settings
from glimprouter.pair import Pair

SCRIPT = [Line("Add one and one.\n\n", 0.1), Line("That gives two.\n\n", 1.9)]
CANARY = "canary-7f3a"


def gateway(pace: Pace | None = None, **limits: Any) -> Gateway:
    engines = [ScriptedEngine(SCRIPT, answer="Two.", name=name, pace=pace) for name in ("small", "large")]
    return Gateway(Settings(Config(), GatewaySettings(**limits)), Pair(engines[0], engines[1], None))


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "glimprouter", "messages": [{"role": "user", "content": f"1 + 1? {CANARY}"}], **fields}


class Asked:
    """One request to the application and what came back. `hang_up` is set to leave."""

    def __init__(self, app: Gateway, body: bytes, *, path: str, headers: dict[str, str]) -> None:
        self.status, self.headers, self.parts = 0, dict[str, str](), list[bytes]()
        self.hang_up = asyncio.Event()
        self._app, self._sent = app, False
        self._body = body
        pairs = {"content-type": "application/json", **headers}
        self._scope = {
            "type": "http", "method": "POST" if body else "GET", "path": path, "query_string": b"", "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
        }  # fmt: skip

    async def run(self) -> "Asked":
        await self._app(self._scope, self._receive, self._send)
        return self

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body}
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.parts.append(message.get("body", b""))

    @property
    def text(self) -> bytes:
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.text.split(b"\n\n") if line]
        return [orjson.loads(line) for line in lines if line != b"[DONE]"]


async def post(
    app: Gateway, body: Any, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
) -> Asked:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return await Asked(app, data, path=path, headers=headers or {}).run()


async def get(app: Gateway, path: str) -> Asked:
    return await Asked(app, b"", path=path, headers={}).run()


@contextlib.asynccontextmanager
async def under_way(app: Gateway, **fields: Any) -> AsyncIterator[tuple[Asked, "asyncio.Task[Asked]"]]:
    asked = Asked(app, orjson.dumps(chat(**fields)), path="/v1/chat/completions", headers={})
    task = asyncio.create_task(asked.run())
    while not app.tasks:
        await asyncio.sleep(0)
    yield asked, task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_whole_answer_has_thought_answer_usage_and_evidence() -> None:
    asked = await post(gateway(), chat())
    message = asked.json["choices"][0]["message"]
    assert (asked.status, message["content"]) == (200, "Two.")
    assert message["reasoning_content"] == message["reasoning"] == "Add one and one.\n\nThat gives two."
    usage = asked.json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["by_model"]["large"]["completion"] > 0
    assert {"x-request-id", "x-glimprouter-large-share", "x-glimprouter-overhead-ms"} <= set(asked.headers)


async def test_a_streamed_answer_is_the_whole_one_in_chunks() -> None:
    asked = await post(gateway(), chat(stream=True, stream_options={"include_usage": True}))
    deltas = [event["choices"][0]["delta"] for event in asked.events if event["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == "Two."
    assert "".join(delta.get("reasoning", "") for delta in deltas).strip("\n").startswith("Add one and one.")
    assert asked.events[-1]["usage"]["completion_tokens"] > 0
    assert asked.text.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("most", [1, 3, 9])
async def test_max_tokens_bounds_thought_and_answer_together(most: int) -> None:
    asked = await post(gateway(), chat(max_tokens=most))
    assert asked.json["usage"]["completion_tokens"] <= most
    assert asked.json["choices"][0]["finish_reason"] == "length"


async def test_a_completion_is_an_answer_to_its_prompt() -> None:
    asked = await post(gateway(), {"model": "large", "prompt": "1 + 1?"}, "/v1/completions")
    assert asked.json["choices"][0]["text"] == "Two."


DEEP = b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not json", 400), (b"\xef\xbb\xbf{}", 400), ("{}".encode("utf-16"), 400), (b'{"temperature": NaN}', 400),
        (b'{"temperature": 1e400}', 400), (DEEP, 400), (b"[]", 400), (b'{"model":"a","model":"b"}', 400),
        (b'{"model":"\\ud800"}', 400), (chat(Model="x"), 400), (chat(n=10**6), 400), (chat(max_tokens=-1), 400),
        (chat(max_tokens=10**12), 400), (chat(seed=2**64 - 1), 400), (chat(stop=["x"] * 10_000), 400),
        (chat(stop=""), 400), (chat(temperature="x"), 400), (chat(temperature=-1), 400), (chat(messages=[]), 400),
        (chat(messages=[{"role": "wizard", "content": "x"}]), 400), (chat(messages=[{"role": "user"}]), 400),
        (chat(messages=[{"role": "user", "content": {}}]), 400), (chat(tools=[{}] * 1000), 400),
        (chat(messages=[{"role": "user", "content": "a\0b"}]), 400),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "file:///x"}]}]), 400),
        (chat(chat_template="x"), 400), (chat(kv_transfer_params={}), 400), (chat(cache_salt="x"), 400),
        (chat(priority=1), 400), (chat(api_base="http://169.254.169.254"), 400), (chat(model="gpt"), 404),
        (chat(model="glimprouter@nan"), 404), (chat(glimprouter={"threshold": -1}), 400),
        (chat(glimprouter={"tau": 1}), 400), (b" " * 5_000_000, 413),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_in_openais_shape(body: Any, status: int) -> None:
    asked = await post(gateway(), body)
    assert asked.status == status
    assert set(asked.json["error"]) == {"message", "type", "param", "code"}
    assert CANARY.encode() not in asked.text


async def test_an_unknown_routing_key_is_named() -> None:
    asked = await post(gateway(), chat(glimprouter={"tau": 1}))
    assert asked.json["error"]["param"] == "glimprouter.tau"


@pytest.mark.parametrize("path", ["//v1/models", "/v1/../admin", "/metrics", "/v1/embeddings", "/v1/responses"])
async def test_everything_else_is_not_found(path: str) -> None:
    asked = await get(gateway(), path)
    assert (asked.status, asked.json["error"]["code"]) == (404, "not_found")


async def test_models_tell_their_context_and_routing() -> None:
    asked = await get(gateway(), "/v1/models")
    assert [one["id"] for one in asked.json["data"]] == ["glimprouter", "small", "large"]
    assert asked.json["data"][0]["max_model_len"] == 32_768


async def test_a_key_is_asked_for_and_its_limits_hold() -> None:
    key = Key(sha256(b"secret").hexdigest(), models=("glimprouter",), requests_per_minute=1)
    app = gateway(keys={"a": key})
    good = {"authorization": "Bearer secret"}
    assert (await post(app, chat())).status == 401
    assert (await post(app, chat(), headers={"authorization": "Bearer wrong"})).status == 401
    assert (await post(app, chat(model="large"), headers=good)).status == 403
    assert (await post(app, chat(), headers=good)).status == 200
    limited = await post(app, chat(), headers=good)
    assert limited.status == 429
    assert int(limited.headers["retry-after"]) > 0


SLOW = Pace(token_ms=20)


async def test_beyond_running_and_queued_there_is_503_with_retry_after() -> None:
    app = gateway(SLOW, max_in_flight=2, max_queue=2)
    replies = await asyncio.gather(*(post(app, chat(max_tokens=3)) for _ in range(8)))
    statuses = [reply.status for reply in replies]
    assert (statuses.count(200), statuses.count(503)) == (4, 4)
    assert all("retry-after" in reply.headers for reply in replies if reply.status == 503)
    assert (app.admission.in_flight, app.admission.queued) == (0, 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_frees_its_engines(stream: bool) -> None:
    app = gateway(SLOW)
    async with under_way(app, stream=stream) as (asked, task):
        await asyncio.sleep(0.05)
        asked.hang_up.set()
        await asyncio.wait_for(task, 1)
    assert app.admission.in_flight == 0


async def test_a_stream_that_fails_ends_with_an_error_event() -> None:
    app = gateway()
    app.live.pair.large.fail_after_tokens = 1  # type: ignore[attr-defined]
    asked = await post(app, chat(stream=True))
    assert asked.status == 200
    assert asked.events[-1]["error"]["code"] == "engine_failed"


async def test_silence_is_broken_by_empty_chunks() -> None:
    asked = await post(gateway(Pace(token_ms=200), heartbeat_s=0.05), chat(stream=True, max_tokens=2))
    assert sum(event["choices"][0]["delta"] == {"content": ""} for event in asked.events) > 1


async def test_no_prompt_in_the_metrics() -> None:
    app = gateway()
    await post(app, chat())
    text = app.metrics.text()
    assert b"glimprouter_requests_total" in text
    assert CANARY.encode() not in text
