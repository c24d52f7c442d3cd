"""HTTP/1.1 with one server: a request goes out in one write, and its reply is read as it arrives.

httptools parses. What is here are connections: reused while they are young, closed when a stream is left early, and a
spare one dialled beside a stream, so that the call after a stream that was left finds a connection made. A general
client spends more on a new connection and on each chunk than the router on a whole step.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from glimprouter.config import __version__
from glimprouter.errors import ConfigError

KEEP_ALIVE_S = 4.0
"""Shorter than the 5 s after which uvicorn and llama.cpp's server hang up, so that we let go first."""

NAMES_KEPT_S = 10.0
_MOST_HEAD_BYTES = 64 * 1024
_PAUSE_BYTES = 1 << 20
"""So much may lie unread before the server is made to wait."""


class ConnectTimeout(ConnectionError):
    """No connection within the time allowed."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is: what its URL says. `prefix` comes before every path."""

    host: str
    port: int
    secure: bool
    prefix: str
    authority: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ConfigError for what is no http or https address."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"{url}: {error}; give an address such as http://host:8000", field="at") from error
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"{url}: not an address; give one such as http://host:8000", field="at")
        secure = parts.scheme == "https"
        name = host if host.isascii() else host.encode("idna").decode()
        authority = f"[{name}]" if ":" in name else name
        if port is not None:
            authority += f":{port}"
        return cls(name, port or (443 if secure else 80), secure, parts.path.rstrip("/"), authority)


class Reply:
    """The reply to one request, on its connection. Read it to its end or close it."""

    def __init__(self, link: Link) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case; of several with one name the last."""
        self._link = link
        self._head_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._unread_bytes = 0
        self._whole = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def head(self) -> None:
        """Wait until status and headers are there. Raises ConnectionError."""
        while not self.status and not self._whole:
            await self._more()

    async def read_some(self) -> bytes:
        """What has arrived, waiting for it if need be; b"" at the end. Raises ConnectionError."""
        while not self._chunks:
            if self._whole:
                self.close()
                return b""
            await self._more()
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if self._unread_bytes > _PAUSE_BYTES:
            self._link.resume()
        self._unread_bytes = 0
        return data

    async def read(self) -> bytes:
        """The whole rest; the connection is free afterwards."""
        parts = []
        try:
            while data := await self.read_some():
                parts.append(data)
        finally:
            self.close()
        return b"".join(parts)

    def close(self) -> None:
        """Hang up, unless the reply has ended and its connection may serve again."""
        link, self._link = self._link, _NOWHERE
        if link is not _NOWHERE:
            link.release(reusable=self._whole and self._error is None)
        self._end(ConnectionAbortedError("closed"))

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Called by the parser --------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _MOST_HEAD_BYTES:
            raise ValueError(f"headers of more than {_MOST_HEAD_BYTES} bytes")
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._link.parser.get_status_code()
        if status < 200:  # more will follow
            self.headers.clear()
            return
        self.status = status
        self._wake()

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > _PAUSE_BYTES:
            self._link.pause()
        self._wake()

    def on_message_complete(self) -> None:
        if self.status:
            self._whole = True
            self._wake()

    def _end(self, error: Exception | None) -> None:
        """The connection is gone; a body that only the end of the connection ends is whole then."""
        framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        if error is None and self.status and not framed:
            self._whole = True
        elif not self._whole and self._error is None:
            self._error = error or ConnectionResetError("the server hung up")
        self._wake()

    ended = _end


class Link(asyncio.Protocol):
    """One connection. At most one reply is under way on it."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self.parser: Any = None
        self.idle_since = 0.0

    def itself(self) -> Link:
        return self

    def ask(self, request: bytes) -> Reply:
        assert self._transport is not None
        reply = self._reply = Reply(self)
        # The parser calls its target's methods; they are looked up once per parser.
        self.parser = httptools.HttpResponseParser(reply)
        self._transport.write(request)
        return reply

    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._reply is None

    def release(self, *, reusable: bool) -> None:
        self._reply = None
        if reusable and self.parser.should_keep_alive():
            self._client.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Say goodbye: nothing is under way."""
        if self._transport is not None:
            self._transport.close()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self.abort()  # nobody asked
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, ValueError) as error:
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            self._reply.ended(ConnectionResetError(f"the reply is no HTTP: {cause}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        reply, self._reply, self._transport = self._reply, None, None
        self._client.forget(self)
        if reply is not None:
            reply.ended(exc if exc is None or isinstance(exc, ConnectionError) else ConnectionResetError(str(exc)))


class _Nowhere(Link):
    """In place of the connection of a reply that was closed."""

    def __init__(self) -> None:
        pass


_NOWHERE = _Nowhere()


class HttpClient:
    """Requests to one server. Connections are made when first needed."""

    def __init__(self, url: str, *, headers: Mapping[str, str], connect_s: float, spare: bool) -> None:
        """`headers` go with every request; `spare`: dial ahead beside streams. Raises ConfigError for a bad address."""
        self._address = Address.of(url)
        self._headers = _head_lines({"Host": self._address.authority, "User-Agent": f"glimprouter/{__version__}"})
        self._headers += _head_lines(headers)
        self._connect_s = connect_s
        self._spare = spare
        self._idle: list[Link] = []
        self._busy: set[Link] = set()
        self._dialling: asyncio.Task[None] | None = None
        self._names: tuple[float, list[str]] = (0.0, [])

    async def send(
        self, path: str, data: bytes | None, headers: Mapping[str, str] | None = None, *, stream: bool = False
    ) -> Reply:
        """Send a request (`data` None: a GET); return when the reply's head is there. Raises OSError.

        A kept connection may have been closed by the server meanwhile, as it may have closed all the others: where one
        ends before the reply's head came, the request is sent once more, over a new one. Calls are stateless.
        """
        method = "GET" if data is None else "POST"
        head = f"{method} {self._address.prefix}{path} HTTP/1.1\r\n{self._headers}"
        if headers:
            head += _head_lines(headers)
        if data is not None:
            head += f"Content-Length: {len(data)}\r\n"
        request = b"%b\r\n%b" % (head.encode("latin-1"), data or b"")
        try:
            return await self._ask(self._take() or await self._dial(), request, stream=stream)
        except (ConnectTimeout, ConnectionRefusedError):
            raise
        except ConnectionError:
            return await self._ask(await self._dial(), request, stream=stream)

    async def _ask(self, link: Link, request: bytes, *, stream: bool) -> Reply:
        self._busy.add(link)
        reply = link.ask(request)
        if stream and self._spare and not self._idle and self._dialling is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial_ahead())
        try:
            await reply.head()
        except BaseException:
            reply.close()
            raise
        return reply

    async def close(self) -> None:
        """Close every connection; streams under way end with ConnectionError."""
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        for link in tuple(self._busy):
            link.abort()
        for link in self._idle:
            link.close()
        await asyncio.sleep(0)

    # Connections -----------------------------------------------------------------------------------------------------

    def keep(self, link: Link) -> None:
        """This connection may serve again."""
        self._busy.discard(link)
        link.idle_since = asyncio.get_running_loop().time()
        self._idle.append(link)

    def forget(self, link: Link) -> None:
        """This connection is no more."""
        self._busy.discard(link)
        if link in self._idle:
            self._idle.remove(link)

    def _take(self) -> Link | None:
        """The connection used last that is young enough; older ones are let go."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            link = self._idle.pop()
            if link.is_usable and now - link.idle_since < KEEP_ALIVE_S:
                return link
            link.close()
        return None

    async def _dial_ahead(self) -> None:
        try:
            self.keep(await self._dial())
        except OSError:
            pass  # whoever needs one finds out himself
        finally:
            self._dialling = None

    async def _dial(self) -> Link:
        loop = asyncio.get_running_loop()
        secure: dict[str, Any] = {"ssl": _tls(), "server_hostname": self._address.host} if self._address.secure else {}
        problem: OSError | None = None
        try:
            async with asyncio.timeout(self._connect_s):
                for place in await self._places():
                    try:
                        link = Link(self)
                        await loop.create_connection(link.itself, place, self._address.port, **secure)
                    except OSError as error:
                        problem = error
                    else:
                        return link
        except TimeoutError:
            raise ConnectTimeout(f"no connection within {self._connect_s:g} s") from None
        self._names = (0.0, [])
        raise problem or ConnectionRefusedError("the name has no address")

    async def _places(self) -> list[str]:
        """The addresses that the host's name stands for, asked for anew from time to time."""
        loop = asyncio.get_running_loop()
        until, places = self._names
        if loop.time() >= until:
            found = await loop.getaddrinfo(self._address.host, self._address.port, type=1)
            places = list(dict.fromkeys(str(place[4][0]) for place in found))
            self._names = (loop.time() + NAMES_KEPT_S, places)
        return places


def _head_lines(headers: Mapping[str, str]) -> str:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\r") != len(headers) or lines.count("\n") != len(headers) or not lines.isascii():
        raise ConfigError(
            "a key or header holds a line break or more than ASCII; give it as it was issued", field="key"
        )
    return lines


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
