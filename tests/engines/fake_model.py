"""What fake servers run: the bigram model of `bigram_gguf` in Python, and one reply over the wire, event by event."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from glimprouter.flow.engine import Message
from tests.engines.bigram_gguf import CONTROL, END, MERGED, NEVER, PIECES, SHOWN, VOCABULARY_SIZE, Table

_SPECIAL = re.compile("|".join(re.escape(text) for text in CONTROL + SHOWN).encode())


@dataclass(frozen=True, slots=True)
class Said:
    """One token as a server says it; `text` completes the characters begun before."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass
class Bigram:
    """Draws the likeliest next token. `read` are the prompts so far, which is what it has cached."""

    table: Table
    context_tokens: int = 512
    read: list[list[int]] = field(default_factory=list)

    def encode(self, text: str) -> list[int]:
        """Control tokens become themselves, as in vLLM and in tokenizer files."""
        raw, ids, start = text.encode(), [], 0
        for match in _SPECIAL.finditer(raw):
            ids += [*_bytes_in(raw[start : match.start()]), PIECES.index(match[0])]
            start = match.end()
        return [*ids, *_bytes_in(raw[start:])]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(PIECES[id_] for id_ in ids).decode(errors="replace")

    def render(self, messages: Sequence[Message]) -> str:
        """As CHAT_TEMPLATE of `bigram_gguf` does."""
        turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
        return "".join(turns) + "<|im_start|>assistant\n"

    def cached_tokens(self, ids: list[int]) -> int:
        """How much of a prompt was read before, the last token apart; it is read now."""
        most = max((_common(ids, other) for other in self.read), default=0)
        self.read.append(ids)
        return min(most, len(ids) - 1)

    def drawn(self, ids: Sequence[int], *, top: int, temperature: float = 1.0) -> Iterator[Said]:
        """Tokens to the end token, which is the last. Log-probabilities are of the distribution at a temperature."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        last = ids[-1]
        while last != END:
            best = self.best_after(last, temperature)
            last, logprob = best[0]
            yield Said(last, "" if last == END else decoder.decode(PIECES[last]), logprob, tuple(best[:top]))

    def best_after(self, id_: int, temperature: float = 1.0) -> list[tuple[int, float]]:
        row = self.table.get(PIECES[id_], {PIECES[END]: 1.0})
        logprobs = [NEVER] * VOCABULARY_SIZE
        for piece, probability in row.items():
            logprobs[PIECES.index(piece)] = math.log(probability)
        total = math.log(math.fsum(math.exp(value / temperature) for value in logprobs))
        scaled = [(place, min(0.0, value / temperature - total)) for place, value in enumerate(logprobs)]
        return sorted(scaled, key=lambda pair: -pair[1])


class BigramCoder:
    """The model's tokenizer files, as if they lay beside us."""

    template = "<think>"
    vocabulary_size = VOCABULARY_SIZE

    def __init__(self, model: Bigram) -> None:
        self._model = model

    async def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]:
        return self._model.encode(text)

    async def detokenize(self, ids: Sequence[int]) -> str:
        return self._model.decode(ids)

    async def render(self, messages: Sequence[Message]) -> str:
        return self._model.render(messages)

    async def chat_ids(self, messages: Sequence[Message]) -> list[int] | None:
        return self._model.encode(self._model.render(messages))


def _bytes_in(raw: bytes) -> list[int]:
    ids, place = [], 0
    pieces = sorted(MERGED, key=len, reverse=True)
    while place < len(raw):
        piece = next((piece for piece in pieces if raw.startswith(piece, place)), raw[place : place + 1])
        ids.append(PIECES.index(piece))
        place += len(piece)
    return ids


def _common(one: list[int], other: list[int]) -> int:
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 10**9)


class Speech(Protocol):
    """How one kind of server says one reply. The last token is said together with why it ended."""

    def __init__(self, asked: dict[str, Any], model: Bigram) -> None: ...

    def event(self, said: Sequence[Said], finish: str | None = None) -> dict[str, Any]: ...

    def closing(self) -> list[dict[str, Any]]:
        """What follows the last event, before [DONE]."""
        ...

    def whole(self, said: Sequence[Said], finish: str) -> dict[str, Any]: ...

    def failure(self, message: str) -> dict[str, Any]: ...


TOKEN = Said(65, "A", -0.5, tuple((65 + place, -0.5 - place) for place in range(5)))


class Wire:
    """One streamed reply of a fake server."""

    def __init__(self, request: web.Request, speech: Speech) -> None:
        self.request = request
        self.speech = speech
        self.reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})

    async def raw(self, data: bytes) -> None:
        if not self.reply.prepared:
            await self.reply.prepare(self.request)
        await self.reply.write(data)

    async def payload(self, payload: dict[str, Any]) -> None:
        await self.raw(b"data: " + json.dumps(payload).encode() + b"\n\n")

    async def say(self, *said: Said, finish: str | None = None) -> None:
        await self.payload(self.speech.event(said or (TOKEN,), finish))

    async def end(self, finish: str = "stop") -> None:
        await self.payload(self.speech.event((Said(END, "", -0.1, TOKEN.top),), finish))
        await self.close()

    async def close(self) -> None:
        for payload in self.speech.closing():
            await self.payload(payload)
        await self.raw(b"data: [DONE]\n\n")

    def hang_up(self) -> None:
        assert self.request.transport is not None
        self.request.transport.abort()


Behaviour = Callable[[Wire], Awaitable[None]]


async def speak(wire: Wire, model: Bigram, ids: Sequence[int], *, max_tokens: int, top: int, scale: float) -> None:
    """Stream a reply as it should be."""
    most = min(max_tokens, model.context_tokens - len(ids))
    for count, said in enumerate(model.drawn(ids, top=top, temperature=scale), 1):
        finish = "stop" if said.id == END else "length" if count == most else None
        await wire.say(said, finish=finish)
        if finish:
            break
    await wire.close()


def whole(
    speech: Speech, model: Bigram, ids: Sequence[int], *, max_tokens: int, top: int, scale: float
) -> dict[str, Any]:
    said: list[Said] = []
    for one in model.drawn(ids, top=top, temperature=scale):
        said.append(one)
        if one.id == END or len(said) == min(max_tokens, model.context_tokens - len(ids)):
            break
    return speech.whole(said, "stop" if said[-1].id == END else "length")


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
