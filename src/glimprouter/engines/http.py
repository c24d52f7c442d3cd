"""An engine behind HTTP. What it is asked and what it says is the dialect's business; here are connections and faults.

Foreign errors end here: everything that leaves this module is an EngineError or an InputError.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NoReturn, TypeVar

import aiohttp
import msgspec
import orjson

from glimprouter.config import Sampling
from glimprouter.engines.control import cut, lookalikes, unused_mark, without_thought
from glimprouter.engines.dialects import THOUGHT_TAGS, Dialect, Draw, Event, Exchange, Piece
from glimprouter.engines.dialects.llamacpp import LLAMACPP
from glimprouter.engines.stream import Stream
from glimprouter.errors import (
    ContextError,
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    ModelError,
    RequestError,
)
from glimprouter.flow.engine import Completion, EngineFacts, Message, Session, Token, Usage

T = TypeVar("T")

KEEP_ALIVE_S = 4.0
"""Shorter than the 5 s after which uvicorn and llama.cpp's server hang up, so that we let go first."""

FINGERPRINT_TEXT = (
    "The answer is 1234567890, or 3.14159e-10?\n\nSo:\n\n\n\tdef f(x):\n        return x**2  # été\r\n\r\n"
    "{'a': [1, 22, 333, 4444]}  你好,世界。こんにちは 안녕하세요 Привет \U0001f600 \U0001f468\u200d\U0001f469"
    "   \u2264 \u221e \\frac{1}{2} $$x_{i}$$ -- ... ;;; ===    \n \n"
)

KEY_VARIABLE = {"small": "GLIMPROUTER_SMALL_KEY", "large": "GLIMPROUTER_LARGE_KEY"}
"""The environment variables that hold the servers' keys."""

_REMEMBERED_STRINGS = 4096


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. `between_tokens_s` runs only while somebody waits for a token; `total_s` bounds a whole stream."""

    connect_s: float = 5.0
    first_token_s: float = 120.0
    between_tokens_s: float = 30.0
    total_s: float = 3600.0


class _Fault(msgspec.Struct):
    message: str = ""
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _Error(msgspec.Struct):
    error: _Fault | str


_decode_error = msgspec.json.Decoder(_Error).decode


class HttpEngine:
    """One server at one address. Connections are made when first needed and reused."""

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        key: str | None = None,
        dialect: Dialect = LLAMACPP,
        timeouts: Timeouts | None = None,
    ) -> None:
        """`name` appears in errors; `key` is sent as a bearer token and appears nowhere."""
        self.name = name or url
        self.dialect = dialect
        self.timeouts = timeouts or Timeouts()
        self.url = url.rstrip("/")
        self.key = key
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._session: aiohttp.ClientSession | None = None
        self._facts: EngineFacts | None = None
        self._is_control: dict[str, bool] = {}

    async def facts(self) -> EngineFacts:
        if self._facts is None:
            replies = [await self._exchange(exchange) for exchange in self.dialect.facts]
            info = self.dialect.model_info(*replies)
            ids = await self.encode(FINGERPRINT_TEXT)
            vocabulary = blake2b(repr(ids).encode(), digest_size=8).hexdigest()
            self._facts = EngineFacts(
                info.model, info.context_tokens, info.vocabulary_size, vocabulary, info.chat_template
            )
        return self._facts

    async def render(self, messages: Sequence[Message]) -> str:
        return "".join(await self._render(messages))

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        if special:
            return await self._exchange(self.dialect.tokenize, text, special=True)
        ids: list[int] = []
        for part in cut(text, await self._control_tokens(text)):
            ids += await self._exchange(self.dialect.tokenize, part, special=False)
        return ids

    async def encode_prompt(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        parts = await self._render(messages)
        ids: list[int] = []
        for index, part in enumerate(parts):
            ids += await self._exchange(self.dialect.tokenize, part, special=True, begin=index == 0)
        return "".join(parts), ids

    async def decode(self, ids: Sequence[int]) -> str:
        return await self._exchange(self.dialect.detokenize, list(ids))

    @asynccontextmanager
    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        top: int,
        usage: Usage,
        session: Session | None = None,
    ) -> AsyncIterator[AsyncIterator[Token]]:
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; at least 1")
        facts = await self.facts()
        # Some files declare them as control tokens, whose text the server would not show.
        shown = tuple(tag for tag in THOUGHT_TAGS if tag in facts.chat_template)
        stream = Stream(self, Draw(list(ids), sampling, max_tokens, top, shown, session), usage, facts.vocabulary_size)
        try:
            await stream.open()
            yield stream
        finally:
            stream.close()

    async def complete(self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, usage: Usage) -> Completion:
        """The same in one blocking call, as a client without streaming makes it; without log-probabilities."""
        facts = await self.facts()
        shown = tuple(tag for tag in THOUGHT_TAGS if tag in facts.chat_template)
        draw = Draw(list(ids), sampling, max_tokens, 0, shown)
        usage.requests += 1
        whole = await self._exchange(self.dialect.whole, draw, allowed_s=self.timeouts.total_s)
        usage.prompt_tokens, usage.cached_tokens = whole.prompt_tokens, whole.cached_tokens
        usage.generated_tokens = len(whole.ids)
        return Completion(tuple(whole.ids), whole.text, whole.finish)

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:  # noqa: ARG002
        await self._exchange(self.dialect.prefill, list(ids))

    def leave(self, session: Session) -> None:
        """Nothing is kept for an answer here."""

    async def close(self) -> None:
        """Close every connection; open streams end with EngineUnavailable."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # Chats -----------------------------------------------------------------------------------------------------------

    async def _render(self, messages: Sequence[Message]) -> list[str]:
        """The rendered chat in parts, cut inside each control token in somebody's text.

        Tokenised one by one the parts cannot form that token. The template sees the text with a private-use character
        at each cut: it may trim or inspect it, but finds no tag there that a user wrote.
        """
        messages = [without_thought(message) for message in messages]
        tokens = await self._control_tokens("\n".join(message["content"] for message in messages))
        mark = unused_mark(messages) if tokens else ""
        marked = [message | {"content": mark.join(cut(message["content"], tokens))} for message in messages]
        text = await self._exchange(self.dialect.render, marked)
        return text.split(mark) if mark else [text]

    async def _control_tokens(self, text: str) -> set[str]:
        """Which of the look-alikes in a text this model reads as one token."""
        known = self._is_control
        found = lookalikes(text)
        for string in found:
            if string not in known:
                if len(known) >= _REMEMBERED_STRINGS:
                    known.clear()
                known[string] = len(await self.encode(string, special=True)) == 1
        return {string for string in found if known.get(string, True)}

    # One request, one reply ------------------------------------------------------------------------------------------

    async def _exchange(self, exchange: Exchange[T], *args: Any, allowed_s: float | None = None, **kwargs: Any) -> T:
        """Ask and read the reply, within the time that a first token may take unless told otherwise."""
        allowed_s = self.timeouts.first_token_s if allowed_s is None else allowed_s
        try:
            async with asyncio.timeout(allowed_s):
                response = await self.request(exchange.path, exchange.body(*args, **kwargs))
                async with response:
                    data = await response.read()
        except TimeoutError:
            raise self.late(f"no reply on {exchange.path}", allowed_s) from None
        except aiohttp.ClientError as error:
            raise self.lost(error) from error
        return self._read(exchange, data)

    async def request(self, path: str, body: dict[str, Any] | None) -> aiohttp.ClientResponse:
        """Send a request; the reply's status is checked, its body not yet read."""
        data = None if body is None else _encoded(body)
        try:
            response = await self._send(path, data)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise self.lost(error) from error
            # A kept-alive connection that the server had closed meanwhile. Calls are stateless: once more is safe.
            try:
                response = await self._send(path, data)
            except aiohttp.ClientError as again:
                raise self.lost(again) from again
        except aiohttp.ServerTimeoutError as error:
            raise self.late("no connection", self.timeouts.connect_s) from error
        except aiohttp.ClientError as error:
            raise self.lost(error) from error
        if response.status != 200:
            async with response:
                self._refuse(response.status, await response.read())
        return response

    async def _send(self, path: str, data: bytes | None) -> aiohttp.ClientResponse:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeouts.connect_s)
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=self._headers, timeout=timeout, trust_env=False, auto_decompress=False
            )
        method = "GET" if data is None else "POST"
        return await self._session.request(method, self.url + path, data=data, allow_redirects=False)

    def _read(self, exchange: Exchange[T], data: bytes) -> T:
        try:
            return exchange.read(data)
        except (ValueError, LookupError) as error:
            self.refuse_broken(data, error)

    # For the stream --------------------------------------------------------------------------------------------------

    async def pieces(self, text: str) -> list[Piece]:
        """The tokens of a text with their bytes."""
        return await self._exchange(self.dialect.pieces, text)

    async def top_after(self, ids: Sequence[int], top: int) -> tuple[tuple[int, float], ...]:
        """The most likely tokens after a prefix, asked for by itself."""
        return await self._exchange(self.dialect.top_after, ids, top) if top else ()

    def read_event(self, line: bytes) -> Event:
        if line.startswith(b"error:"):
            self._refuse(500, line[6:])
        return self._read(self.dialect.generate, line[5:])

    # Faults ----------------------------------------------------------------------------------------------------------

    def lost(self, error: BaseException | str) -> EngineError:
        """The connection failed. A subclass that knows why says so."""
        return EngineUnavailable(f"{self.name}: {error or type(error).__name__}", engine=self.name)

    def late(self, what: str, allowed_s: float) -> EngineTimeout:
        return EngineTimeout(f"{self.name}: {what} within {allowed_s:g} s", engine=self.name)

    def broken(self, why: str) -> EngineProtocolError:
        return EngineProtocolError(f"{self.name}: {why}", engine=self.name)

    def refuse_broken(self, data: bytes, error: Exception) -> NoReturn:
        """A reply that is not what it should be: an error in its place, or nonsense."""
        fault = _fault_in(data)
        if fault is not None:
            self._refuse(500, data)
        shown = data[:200].decode(errors="replace")
        raise self.broken(f"a reply breaks the {self.dialect.name} format ({error}): {shown!r}") from error

    def _refuse(self, status: int, data: bytes) -> NoReturn:
        fault = _fault_in(data) or _Fault(data[:200].decode(errors="replace"))
        if fault.type == "exceed_context_size_error":
            raise ContextError(
                f"{self.name}: the prompt has {fault.n_prompt_tokens} tokens, the context holds {fault.n_ctx}; "
                "shorten it or give the engine a larger context",
                field="question",
            )
        said = f"answered {status}: {fault.message or 'no message'}"
        if status in (502, 503, 504, 429):
            raise self.lost(said)
        if status in (401, 403):
            said += f"; its key is read from {' or '.join(KEY_VARIABLE.values())}"
        raise self.broken(said)


async def open_server(url: str, *, side: str) -> HttpEngine:
    """The engine at an address, once it has answered. Raises ModelError, naming `--{side}`, where it does not."""
    engine = HttpEngine(url, key=os.environ.get(KEY_VARIABLE[side]))
    try:
        await engine.facts()
    except EngineError as error:
        await engine.close()
        raise ModelError(
            f"--{side} {url}: no llama.cpp server that can be used: {error}; give the address of one "
            f"(http://host:port) that is up, and its key, if it has one, in {KEY_VARIABLE[side]}",
            field=side,
        ) from error
    except BaseException:
        await engine.close()
        raise
    return engine


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise RequestError(
            f"the text can not be sent as UTF-8 ({error}); remove half surrogate pairs", field="messages"
        ) from error


def _fault_in(data: bytes) -> _Fault | None:
    """The error that a body reports, if it is one."""
    try:
        error = _decode_error(data).error
    except msgspec.DecodeError:
        return None
    return _Fault(error) if isinstance(error, str) else error
