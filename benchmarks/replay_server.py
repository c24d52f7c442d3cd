"""A server that replays recorded bytes: what engines say costs nothing to make, so that only its reader is measured.

Run by `overhead.py` in a process of its own: `python -m benchmarks.replay_server DIALECT STEP_TOKENS GAP_US`. It prints
its port. Every stream is one recorded event per token, a step of STEP_TOKENS after the other, each event in a write of
its own, GAP_US apart, until the client leaves. Steps begin alternately with a low and a high entropy.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import uvloop

RECORDED = Path(__file__).parent / "recorded"
CONTEXT_TOKENS = 10**6
TEMPLATE = "{# <think> </think> #}"


class Llamacpp:
    """Replies of llama.cpp's server. The recorded file holds three events: certain, uncertain, end of a step."""

    def __init__(self, step_tokens: int) -> None:
        lines = (RECORDED / "llamacpp.sse").read_bytes().split(b"\n\n")
        self._low, self._high, self._end = lines[:3]
        self._step_tokens = step_tokens

    def events(self, body: dict[str, object]) -> Iterator[bytes]:
        """Endless; each carries the engine's own count of tokens."""
        with_logprobs = bool(body["n_probs"])
        step = [self._low, *[self._low] * (self._step_tokens - 2), self._end]
        pivot = [self._high, *step[1:]]
        if not with_logprobs:
            step = pivot = [without_logprobs(line) for line in step]
        for count, line in enumerate(itertools.cycle((*step, *pivot)), 1):
            # A text of its own for every step: a thought that repeats itself would be ended.
            line = line.replace(b'"content":".', b'"content":" %d.' % count)
            yield re.sub(rb'"tokens_predicted":\d+', b'"tokens_predicted":%d' % count, line, count=1) + b"\n\n"

    def reply(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """To everything but a stream."""
        if path == "/props":
            return {"default_generation_settings": {"n_ctx": CONTEXT_TOKENS}, "chat_template": TEMPLATE}
        if path == "/v1/models":
            return {"data": [{"id": "replayed", "owned_by": "llamacpp", "meta": {"n_vocab": 151_936}}]}
        if path == "/apply-template":
            return {"prompt": "question\nassistant\n"}
        if path == "/tokenize":
            return {"tokens": list(range(100, 100 + len(str(body["content"]).split()) + 1))}
        return {"content": "", "tokens": [], "stop": True, "stop_type": "limit", "tokens_predicted": 0,
                "tokens_evaluated": 0}  # fmt: skip


def without_logprobs(line: bytes) -> bytes:
    event = orjson.loads(line[6:])
    event.pop("completion_probabilities")
    return b"data: " + orjson.dumps(event)


DIALECTS = {"llamacpp": Llamacpp}
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Replay:
    """One recorded dialect behind a socket."""

    def __init__(self, recorded: Llamacpp, gap_us: float) -> None:
        self._recorded = recorded
        self._gap_s = gap_us / 1e6

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, RuntimeError):  # uvloop raises the last
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                length = re.search(rb"(?i)content-length: (\d+)", head)
                data = await reader.readexactly(int(length[1])) if length else b"{}"
                body = orjson.loads(data)
                if body.get("stream"):
                    await self._stream(writer, body)
                else:
                    reply = orjson.dumps(self._recorded.reply(path, body))
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(reply) + reply)
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, body: dict[str, object]) -> None:
        writer.write(_SSE)
        due = time.perf_counter()
        for event in self._recorded.events(body):
            due += self._gap_s
            # Sleeping is too coarse for gaps of some tens of microseconds.
            while time.perf_counter() < due:
                await asyncio.sleep(0)
            writer.write(b"%x\r\n" % len(event) + event + b"\r\n")
            await writer.drain()


async def main(dialect: str, step_tokens: int, gap_us: float) -> None:
    replay = Replay(DIALECTS[dialect](step_tokens), gap_us)
    server = await asyncio.start_server(replay.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    asyncio.get_running_loop().run_in_executor(None, end_with_parent)
    await server.serve_forever()


def end_with_parent() -> None:
    sys.stdin.read()
    raise SystemExit


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
