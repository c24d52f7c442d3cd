"""The fake: an engine that writes what a script says. Deterministic, in process; for tests, documentation, benchmarks.

    small = ScriptedEngine([Line("Add 2 and 2.\\n\\n"), Line("So x = 4.\\n\\n", entropy_nats=1.8)], answer="4")

It has no memory: what comes next follows from the text it is asked to continue, whoever wrote that.
"""

from __future__ import annotations

import asyncio
import math
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from glimprouter.config import Sampling
from glimprouter.engines.paced import Clock, Device, Pace, Sleep, Writing
from glimprouter.errors import ContextError, EngineUnavailable
from glimprouter.flow.engine import EngineFacts, Message, Session, Token, Usage

__all__ = [
    "CONTROL",
    "NEARLY_CERTAIN_NATS",
    "Call",
    "Line",
    "Opening",
    "Pace",
    "Script",
    "ScriptedEngine",
    "Vocabulary",
    "distribution",
]

CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
_WRITING = "<|im_start|>assistant\n"
_BLANK = re.compile(r"\n\n+")
NEARLY_CERTAIN_NATS = 0.05

Opening = Literal["model", "template", "closed"]
"""Who opens the thought: the model itself (Qwen3), its template (R1), or the template that also closes it at once."""

_OPENINGS: dict[Opening, str] = {"model": "", "template": "<think>\n", "closed": "<think>\n\n</think>\n\n"}


@lru_cache
def _tables_of(first_id: int) -> tuple[dict[int, str], dict[str, int]]:  # noqa: ARG001 - the cache's key
    """Texts by id and ids by text, one pair of tables for all vocabularies of the same name."""
    return {}, {}


class Vocabulary:
    """Words, white space and punctuation, numbered as they are met; ".\\n\\n" is one token, as in real ones.

    Vocabularies with the same `first_id` are the same one: engines that have it exchange ids.
    """

    size = 100_000
    _pieces = re.compile(r"[.:;,!?)]*\n\n+| ?\w+|\s|[^\w\s]")
    _special_pieces = re.compile("|".join([*map(re.escape, CONTROL), _pieces.pattern]))

    def __init__(self, first_id: int = 0) -> None:
        self.name = f"scripted-{first_id}"
        self._texts, self._ids = _tables_of(first_id)
        self._first_id = first_id
        for text in CONTROL:
            self.id_of(text)

    def id_of(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = self._first_id + len(self._ids)
            self._texts[self._ids[piece]] = piece
        return self._ids[piece]

    def encode(self, text: str, *, special: bool) -> list[int]:
        pieces = self._special_pieces if special else self._pieces
        return [self.id_of(piece) for piece in pieces.findall(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._texts[id_] for id_ in ids)


@dataclass(frozen=True, slots=True)
class Line:
    """A step that an engine wants to write, and the entropy of its first token; the others are nearly certain."""

    text: str
    entropy_nats: float = NEARLY_CERTAIN_NATS


Script = Sequence[Line | str] | Callable[[str], Line | str]
"""The steps of a thought by position, or what comes after the text the model has written so far ("" ends it)."""


@dataclass(slots=True)
class Call:
    """One call as it was made. `taken` counts tokens delivered; `closed_early`: left before the stream's end."""

    kind: Literal["generate", "prefill"]
    ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 0
    top: int = 0
    taken: int = 0
    closed_early: bool = False
    session: Session | None = None


class ScriptedEngine:
    """Writes a script. What was asked of it stands in `calls`; `fail_after_tokens` may be changed at any time."""

    def __init__(
        self,
        script: Script,
        *,
        answer: str = "Done.",
        name: str = "scripted",
        vocabulary: Vocabulary | None = None,
        opening: Opening = "model",
        context_tokens: int = 32_768,
        pace: Pace | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Clock | None = None,
        fail_after_tokens: int | None = None,
        keep_calls: bool = True,
    ) -> None:
        """A list of steps is followed by the closing tag and `answer`; a function writes those itself. `sleep` takes
        seconds and is called only where `pace` says that something takes time; with a `clock` (seconds) tokens are
        written while nobody asks, as by a server, else only on demand. Calls hold their whole prompts: long
        runs had better not keep them."""
        self.name = name
        self.calls: list[Call] = []
        self.fail_after_tokens = fail_after_tokens
        self.closed = False
        self.left: list[str] = []
        self._keep_calls = keep_calls
        self._delivered = 0
        self._script = script if callable(script) else [_line(item) for item in script]
        self._line_ends = [] if callable(self._script) else list(accumulate(map(_blank_lines, self._script)))
        self._answer = answer
        self._vocabulary = vocabulary or Vocabulary()
        self._opening = opening
        self._context_tokens = context_tokens
        self._device = Device(pace or Pace(), sleep, clock)

    async def facts(self) -> EngineFacts:
        template = f"<|im_start|>...<think>...</think> ({self._opening} opens the thought)"
        return EngineFacts(
            self.name,
            self._context_tokens,
            Vocabulary.size,
            self._vocabulary.name,
            template,
            cache_block_tokens=self._device.pace.block_tokens,
        )

    async def render(self, messages: Sequence[Message]) -> str:
        turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
        return "".join([*turns, _WRITING, _OPENINGS[self._opening]])

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self._vocabulary.encode(text, special=special)

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        encode = self._vocabulary.encode
        ids: list[int] = []
        for message in messages:
            ids += encode(f"<|im_start|>{message['role']}\n", special=True)
            ids += encode(message["content"], special=False)
            ids += encode("<|im_end|>\n", special=True)
        return ids + encode(_WRITING + _OPENINGS[self._opening], special=True)

    async def decode(self, ids: Sequence[int]) -> str:
        return self._vocabulary.decode(ids)

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
        usage.requests += 1
        self._check_room(ids)
        call = Call("generate", tuple(ids), sampling, max_tokens, top, closed_early=True, session=session)
        self._note(call)
        usage.prompt_tokens = len(ids)
        tokens = self._tokens(call, usage)
        try:
            yield tokens
        finally:
            await tokens.aclose()

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
        self._check_room(ids)
        self._note(Call("prefill", tuple(ids), session=session))
        await self._device.read(list(ids))

    def leave(self, session: Session) -> None:
        self.left.append(session.id)

    async def close(self) -> None:
        self.closed = True
        await self._device.close()

    def _note(self, call: Call) -> None:
        if self._keep_calls:
            self.calls.append(call)

    async def _tokens(self, call: Call, usage: Usage) -> AsyncGenerator[Token, None]:
        ids = list(call.ids)
        room = min(call.max_tokens, self._context_tokens - len(ids))
        usage.cached_tokens = await self._device.read(ids)
        writing = Writing(self._device)
        try:
            for id_, entropy_nats in self._wanted(self._vocabulary.decode(ids)):
                if call.taken == room:
                    break
                if call.taken:
                    await writing.token()
                self._fail_if_due()
                ids.append(id_)
                usage.generated_tokens += 1
                call.taken += 1
                self._delivered += 1
                top = distribution(id_, entropy_nats, call.top)
                yield Token(id_, self._vocabulary.decode([id_]), top[0][1] if top else None, top)
            call.closed_early = False
            yield Token(-1, "", finish="length" if call.taken == room else "stop")
        finally:
            if call.closed_early:
                usage.generated_tokens += min(writing.waiting_tokens(), room - call.taken)

    def _wanted(self, prefix: str) -> Iterator[tuple[int, float]]:
        """Ids to the end of all it has to say, each with the entropy of its distribution."""
        written = prefix.rpartition(_WRITING)[2]
        while (line := self._next(written)).text:
            first, *others = self._vocabulary.encode(line.text, special=True)
            yield first, line.entropy_nats
            yield from ((id_, NEARLY_CERTAIN_NATS) for id_ in others)
            written += line.text

    def _next(self, written: str) -> Line:
        """What comes after `written`, the model's turn so far; an empty line ends it."""
        if callable(self._script):
            return _line(self._script(written))
        thought, closed, answer = written.partition("</think>")
        if closed:
            return Line(f"\n\n{self._answer}"[len(answer) :])
        _, opening, body = thought.rpartition("<think>\n")
        return self._next_step(body) if opening else Line("<think>\n"[len(body) :])

    def _next_step(self, body: str) -> Line:
        """The step that stands at the place the thought has reached, counted in blank lines, or the rest of it."""
        assert not callable(self._script)
        ends = [match.end() for match in _BLANK.finditer(body)]
        place = bisect_right(self._line_ends, len(ends))
        if place == len(self._script):
            return Line(f"</think>\n\n{self._answer}")
        line = self._script[place]
        begun = len(body) - (ends[self._line_ends[place - 1] - 1] if place else 0)
        return Line(line.text[begun:] or "\n\n") if begun else line

    def _check_room(self, ids: Sequence[int]) -> None:
        self._fail_if_due()
        if len(ids) >= self._context_tokens:
            raise ContextError(
                f"{self.name}: the prompt has {len(ids)} tokens, the context holds {self._context_tokens}; shorten it",
                field="question",
            )

    def _fail_if_due(self) -> None:
        if self.fail_after_tokens is not None and self._delivered >= self.fail_after_tokens:
            raise EngineUnavailable(f"{self.name}: out of order, as its script wants it", engine=self.name)


def _line(item: Line | str) -> Line:
    return Line(item) if isinstance(item, str) else item


def _blank_lines(line: Line) -> int:
    """How many of them a thought has more once the line stands in it: one is added where the line has none."""
    return max(1, len(_BLANK.findall(line.text)))


def distribution(id_: int, entropy_nats: float, top: int) -> tuple[tuple[int, float], ...]:
    """The `top` most likely (id, logprob) of a distribution that has the entropy asked for, `id_` first.

    All others are equally likely, and no more of them than are shown, unless the entropy takes more.
    """
    if not top:
        return ()
    first, other = _two_levels(entropy_nats, max(top, 2, math.ceil(math.exp(entropy_nats))))
    others = [candidate for candidate in range(top) if candidate != id_][: top - 1]
    return ((id_, first), *((candidate, other) for candidate in others))


@lru_cache
def _two_levels(entropy_nats: float, outcomes: int) -> tuple[float, float]:
    """Log-probabilities of one outcome and of each of the others. Bisects their difference; entropy falls with it."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        log_sum = _log_sum(middle, outcomes)
        entropy = log_sum - middle * math.exp(middle - log_sum)
        low, high = (middle, high) if entropy > entropy_nats else (low, middle)
    return low - _log_sum(low, outcomes), -_log_sum(low, outcomes)


def _log_sum(difference: float, outcomes: int) -> float:
    return difference + math.log1p((outcomes - 1) * math.exp(-difference))
