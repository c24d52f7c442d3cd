"""An engine behind HTTP. What it is asked and what it says is the dialect's business; here are connections and faults.

Foreign errors end here: everything that leaves this module is an EngineError or an InputError.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NoReturn, TypeVar

import orjson

from glimprouter.config import Sampling
from glimprouter.engines.blocks import Blocks
from glimprouter.engines.coding import Coder, Coding, TokensApart
from glimprouter.engines.dialects import THOUGHT_TAGS, Dialect, Draw, Event, Exchange, ModelInfo, Whole
from glimprouter.engines.dialects.llamacpp import LLAMACPP
from glimprouter.engines.faults import Fault, fault_in, seconds
from glimprouter.engines.http_client import ConnectTimeout, HttpClient, Reply
from glimprouter.engines.server_coder import ServerCoder
from glimprouter.engines.stream import Stream
from glimprouter.engines.text_mode import VOCABULARY, Pieces
from glimprouter.errors import (
    ContextError,
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    RequestError,
)
from glimprouter.flow.engine import Completion, EngineFacts, Message, Session, Token, Usage

T = TypeVar("T")

FINGERPRINT_TEXT = (
    "The answer is 1234567890, or 3.14159e-10?\n\nSo:\n\n\n\tdef f(x):\n        return x**2  # été\r\n\r\n"
    "{'a': [1, 22, 333, 4444]}  你好,世界。こんにちは 안녕하세요 Привет \U0001f600 \U0001f468\u200d\U0001f469"
    "   \u2264 \u221e \\frac{1}{2} $$x_{i}$$ -- ... ;;; ===    \n \n"
)

KEY_VARIABLE = {"small": "GLIMPROUTER_SMALL_KEY", "large": "GLIMPROUTER_LARGE_KEY"}
"""The environment variables that hold the servers' keys."""

UNTOLD_CONTEXT_TOKENS = 32_768
"""Taken where a server does not say how much its context holds."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. `between_tokens_s` runs only while somebody waits for a token; `total_s` bounds a whole stream."""

    connect_s: float = 5.0
    first_token_s: float = 120.0
    between_tokens_s: float = 30.0
    total_s: float = 3600.0


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
        coder: Coder | Pieces | None = None,
        thought_format: str = "",
        block_tokens: int = 0,
    ) -> None:
        """`name` appears in errors; `key` is sent as a bearer token and appears nowhere. `coder` takes the place of the
        server's own tokenizer and template. `block_tokens`: instead of streams, blocking requests of so many tokens.
        """
        self.name = name or url
        self.dialect = dialect
        self.timeouts = timeouts or Timeouts()
        self.url = url.rstrip("/")
        self.key = key
        self._client = HttpClient(
            self.url,
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            connect_s=self.timeouts.connect_s,
            spare=dialect.spare_connection,
        )
        self._facts: EngineFacts | None = None
        self._coder = coder or ServerCoder(self)
        self._coding = self._coder if isinstance(self._coder, Pieces) else Coding(self._coder)
        self._apart = TokensApart(self.decode)
        self._thought_format = thought_format
        self.block_tokens = block_tokens

    async def facts(self) -> EngineFacts:
        if self._facts is None:
            dialect = self.dialect
            info = dialect.info or await self._info()
            warnings = list(dialect.warnings)
            if not info.context_tokens:
                warnings.append(
                    f"{self.name} does not tell its context; {UNTOLD_CONTEXT_TOKENS} tokens are taken for it"
                )
            template = getattr(self._coder, "template", "") or info.chat_template
            self._facts = EngineFacts(
                model=info.model,
                context_tokens=info.context_tokens or UNTOLD_CONTEXT_TOKENS,
                vocabulary_size=getattr(self._coder, "vocabulary_size", 0) or info.vocabulary_size,
                vocabulary=await self._fingerprint(),
                chat_template=template,
                most_top=dialect.most_top,
                takes_ids=dialect.takes_ids,
                cache_block_tokens=info.cache_block_tokens,
                warnings=tuple(warnings),
                thought_format=self._thought_format,
            )
        return self._facts

    async def _info(self) -> ModelInfo:
        replies = [await self._exchange(exchange) for exchange in self.dialect.facts]
        assert self.dialect.model_info is not None, "a dialect tells what is served, or how to ask"
        return self.dialect.model_info(*replies)

    async def _fingerprint(self) -> str:
        """The same for models that number the same tokens alike."""
        if not self.dialect.takes_ids:
            return VOCABULARY
        return blake2b(repr(await self.encode(FINGERPRINT_TEXT)).encode(), digest_size=8).hexdigest()

    async def render(self, messages: Sequence[Message]) -> str:
        return await self._coding.render(messages)

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        return await self._coding.encode(text, special=special)

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        return await self._coding.encode_prompt(messages)

    async def decode(self, ids: Sequence[int]) -> str:
        return await self._coding.decode(ids)

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
        draw = await self._draw(ids, sampling, max_tokens, top, session)
        kind = Blocks if self.block_tokens else Stream
        stream = kind(self, draw, usage, (await self.facts()).vocabulary_size)
        try:
            await stream.open()
            yield stream
        finally:
            stream.close()

    async def _draw(
        self, ids: Sequence[int], sampling: Sampling, max_tokens: int, top: int, session: Session | None
    ) -> Draw:
        facts = await self.facts()
        self._check_room(ids, facts)
        # Some files declare them as control tokens, whose text the server would not show.
        shown = tuple(tag for tag in THOUGHT_TAGS if tag in facts.chat_template)
        return Draw(list(ids), sampling, max_tokens, min(top, facts.most_top), shown, session)

    def _check_room(self, ids: Sequence[int], facts: EngineFacts) -> None:
        if len(ids) >= facts.context_tokens and self.dialect.takes_ids:
            raise self.too_long(len(ids), facts.context_tokens)

    async def complete(self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, usage: Usage) -> Completion:
        """The same in one blocking call, as a client without streaming makes it; without log-probabilities."""
        whole = await self.whole(await self._draw(ids, sampling, max_tokens, 0, None), usage)
        return Completion(tuple(whole.ids), whole.text, whole.finish)

    async def whole(self, draw: Draw, usage: Usage) -> Whole:
        """One blocking request; its cost is added to `usage`."""
        usage.requests += 1
        exchange = self.dialect.whole
        data = await self._fetch(exchange.path, exchange.body(draw), draw.session, allowed_s=self.timeouts.total_s)
        whole = self._read(exchange, data, draw)
        usage.prompt_tokens += whole.prompt_tokens
        usage.cached_tokens += whole.cached_tokens
        usage.generated_tokens += len(whole.ids)
        return whole

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
        exchange = self.dialect.prefill
        if exchange is None:
            return
        self._check_room(ids, await self.facts())
        data = await self._fetch(exchange.path, exchange.body(list(ids), session), session)
        self._read(exchange, data)

    def leave(self, session: Session) -> None:
        """Nothing is kept for an answer here."""

    async def close(self) -> None:
        """Close every connection; open streams end with EngineUnavailable."""
        await self._client.close()

    # One request, one reply ------------------------------------------------------------------------------------------

    async def exchange(self, exchange: Exchange[T], *args: Any, **kwargs: Any) -> T:
        """Ask and read the reply, within the time that a first token may take."""
        return self._read(exchange, await self._fetch(exchange.path, exchange.body(*args, **kwargs)))

    _exchange = exchange

    async def _fetch(
        self, path: str, body: dict[str, Any] | None, session: Session | None = None, *, allowed_s: float | None = None
    ) -> bytes:
        allowed_s = self.timeouts.first_token_s if allowed_s is None else allowed_s
        try:
            async with asyncio.timeout(allowed_s):
                return await (await self.request(path, body, session)).read()
        except TimeoutError:
            raise self.late(f"no reply on {path}", allowed_s) from None
        except OSError as error:
            raise self.lost(error) from error

    async def request(
        self, path: str, body: dict[str, Any] | None, session: Session | None = None, *, stream: bool = False
    ) -> Reply:
        """Send a request; the reply's status is checked, its body not yet read."""
        data = None if body is None else _encoded(body)
        headers = self.dialect.headers(session.id) if session is not None else None
        try:
            reply = await self._client.send(path, data, headers, stream=stream)
            if reply.status != 200:
                self._refuse(reply.status, await reply.read(), reply.headers.get("retry-after"))
        except ConnectTimeout as error:
            raise self.late("no connection", self.timeouts.connect_s) from error
        except OSError as error:
            raise self.lost(error) from error
        return reply

    def _read(self, exchange: Exchange[T], data: bytes, *args: Any) -> T:
        try:
            return exchange.read(data, *args)
        except (ValueError, LookupError) as error:
            self.refuse_broken(data, error)

    # For the stream --------------------------------------------------------------------------------------------------

    async def texts_of(self, ids: Sequence[int], joint: str) -> list[str]:
        """The text of each of some tokens of which only the joint text is known."""
        return await self._apart.texts(ids, joint)

    async def text_of(self, id_: int) -> str:
        """The text of a token by itself, asked for once."""
        return await self._apart.text(id_)

    def read_event(self, line: bytes, draw: Draw) -> Event:
        """One line of a stream: an event's payload, or an error in its place."""
        if line.startswith(b"error:"):
            self._refuse(500, line[6:])
        return self._read(self.dialect.generate, line[5:], draw)

    # Faults ----------------------------------------------------------------------------------------------------------

    def lost(self, error: BaseException | str) -> EngineError:
        """The connection failed. A subclass that knows why says so."""
        return EngineUnavailable(f"{self.name}: {error or type(error).__name__}", engine=self.name)

    def late(self, what: str, allowed_s: float) -> EngineTimeout:
        return EngineTimeout(f"{self.name}: {what} within {allowed_s:g} s", engine=self.name)

    def too_long(self, prompt_tokens: int, context_tokens: int) -> ContextError:
        return ContextError(
            f"{self.name}: the prompt has {prompt_tokens} tokens, the context holds {context_tokens}; "
            "shorten it or give the engine a larger context",
            field="question",
        )

    def broken(self, why: str) -> EngineProtocolError:
        return EngineProtocolError(f"{self.name}: {why}", engine=self.name)

    def refuse_broken(self, data: bytes, error: Exception) -> NoReturn:
        """A reply that is not what it should be: an error in its place, or nonsense."""
        fault = fault_in(data)
        if fault is not None:
            self._refuse(500, data)
        shown = data[:200].decode(errors="replace")
        raise self.broken(f"a reply breaks the {self.dialect.name} format ({error}): {shown!r}") from error

    def _refuse(self, status: int, data: bytes, retry_after: str | None = None) -> NoReturn:
        fault = fault_in(data) or Fault(data[:200].decode(errors="replace"))
        if status < 500 and self.dialect.is_context_error(fault.kind, fault.message):
            if fault.prompt_tokens and fault.context_tokens:
                raise self.too_long(fault.prompt_tokens, fault.context_tokens)
            raise ContextError(f"{self.name}: the prompt is too long: {fault.message}", field="question")
        said = f"{self.name}: answered {status}: {fault.message or 'no message'}"
        if status in (408, 429, 502, 503, 504):
            raise EngineUnavailable(said, engine=self.name, retry_after_s=seconds(retry_after))
        if status in (401, 403):
            said += f"; its key is read from {' or '.join(KEY_VARIABLE.values())}"
        raise EngineProtocolError(said, engine=self.name, final=400 <= status < 500)


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise RequestError(
            f"the text can not be sent as UTF-8 ({error}); remove half surrogate pairs", field="messages"
        ) from error
