"""Reward models: a scripted one, and one behind vLLM's pooling route (`vllm serve MODEL --runner pooling`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import aiohttp
import msgspec
import orjson

from glimprouter.errors import EngineProtocolError, EngineTimeout, EngineUnavailable
from glimprouter.flow.engine import Message, Usage

T = TypeVar("T")

STEP_TAG = "<extra_0>"
"""What Qwen's process reward models read the value of a step at."""

KEY_VARIABLE = "GLIMPROUTER_REWARD_KEY"
TIMEOUT_S = 60.0


class ScriptedReward:
    """Values steps by a function of their texts; for tests and documentation."""

    def __init__(self, value: Callable[[Sequence[str]], float], *, name: str = "scripted reward") -> None:
        self.name = name
        self._value = value

    async def reward(self, messages: Sequence[Message], steps: Sequence[str], *, usage: Usage) -> float:  # noqa: ARG002
        usage.requests += 1
        return self._value(steps)

    async def close(self) -> None: ...


class HttpReward:
    """A process reward model served by vLLM. The chat is sent with its steps as one reply, `step_tag` after each; what
    comes back for the last tag is a probability, or those of wrong and right, of which the latter counts."""

    def __init__(self, url: str, *, model: str = "", step_tag: str = STEP_TAG, timeout_s: float = TIMEOUT_S) -> None:
        """`model` "": the first one the server lists. Its key is read from GLIMPROUTER_REWARD_KEY."""
        self.name = self._url = url.rstrip("/")
        self._model = model
        self._step_tag = step_tag
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def reward(self, messages: Sequence[Message], steps: Sequence[str], *, usage: Usage) -> float:
        self._model = self._model or await self._first_model()
        reply = "".join(f"{step.strip()}{self._step_tag}" for step in steps)
        body = {
            "model": self._model,
            "messages": [*messages, {"role": "assistant", "content": reply}],
            "add_generation_prompt": False,
        }
        usage.requests += 1
        pooled = self._read(await self._ask("POST", "/pooling", body), _Pooled)
        usage.prompt_tokens += pooled.usage.prompt_tokens
        if not pooled.data or not pooled.data[0].data:
            raise EngineProtocolError(f"{self.name}: no value for any step; is {self._model} a process reward model?")
        last = pooled.data[0].data[-1]
        value = last[-1] if isinstance(last, list) else last
        if not 0.0 <= value <= 1.0:
            raise EngineProtocolError(
                f"{self.name}: the value of a step is {value:g}, not a probability; serve a process reward model whose "
                "head has one"
            )
        return value

    async def _first_model(self) -> str:
        listed = self._read(await self._ask("GET", "/v1/models", None), _Models)
        if not listed.data:
            raise EngineProtocolError(f"{self.name}: lists no model")
        return listed.data[0].id

    async def _ask(self, method: str, path: str, body: object) -> bytes:
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._connected().request(method, self._url + path, data=orjson.dumps(body) if body else None) as reply,
            ):
                said = await reply.read()
                if reply.status != 200:
                    raise EngineProtocolError(
                        f"{self.name}{path}: answered {reply.status}: {said[:200].decode(errors='replace')}"
                    )
                return said
        except TimeoutError:
            raise EngineTimeout(f"{self.name}{path}: no answer within {self._timeout_s:g} s") from None
        except aiohttp.ClientError as error:
            raise EngineUnavailable(f"{self.name}: cannot be reached ({error})") from error

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = os.environ.get(KEY_VARIABLE)
            headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
            self._session = aiohttp.ClientSession(headers=headers)
        return self._session

    def _read(self, said: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(said, type=kind)
        except msgspec.DecodeError as error:
            raise EngineProtocolError(f"{self.name}: not what a pooling server says ({error})") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Pooling(msgspec.Struct):
    data: list[list[float] | float]


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0


class _Pooled(msgspec.Struct):
    data: list[_Pooling]
    usage: _Usage = _Usage()


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]
