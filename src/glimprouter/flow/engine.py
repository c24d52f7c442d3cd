"""What the loop needs of an engine: token ids in, tokens out, nothing remembered between calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from glimprouter.config import Sampling

__all__ = ["Completion", "Engine", "EngineFacts", "Finish", "Message", "Sampling", "Session", "Token", "Usage"]

Message = dict[str, str]
"""A chat message: `role` (system, user or assistant) and `content`."""

Finish = Literal["stop", "length"]
"""Why an engine ended a stream: its own end token, or the number of tokens it was allowed."""


class Token(NamedTuple):
    """One token as drawn.

    `text` may be empty while a character is incomplete; the token that completes it carries all of it. `top` holds
    the k most likely (id, natural-log probability) of the raw distribution at temperature 1, best first, and is
    empty where none were asked for or the engine had none. `finish` is set on the last item of a stream, which may
    be a token or, with id -1 and no text, the end alone. An end token drawn is reported as the latter.
    """

    id: int
    text: str
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply to one blocking call; the end token is in neither `ids` nor `text`."""

    ids: tuple[int, ...]
    text: str
    finish: Finish


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says of its model. `vocabulary` is a fingerprint: equal ones exchange ids instead of text.

    `vocabulary_size` is 0 and `chat_template` empty where a server does not tell them. `most_top` is how many
    log-probabilities a token may carry; without any the model cannot be the one that glimpses. Without `takes_ids` a
    server is spoken to in text, and its ids are our own numbers for the pieces of text seen. Prefixes are cached in
    whole blocks of `cache_block_tokens`. `warnings` say what is amiss but does no great harm. `thought_format` names
    one of `prompt.FORMATS` where the user told it.
    """

    model: str
    context_tokens: int
    vocabulary_size: int
    vocabulary: str
    chat_template: str
    most_top: int = 20
    takes_ids: bool = True
    cache_block_tokens: int = 1
    warnings: tuple[str, ...] = ()
    thought_format: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """The answer that a call belongs to: replicas are chosen by `id`, and queues kept by when it arrived."""

    id: str
    arrived_unix_s: float


@dataclass(slots=True)
class Usage:
    """What one call cost, filled in as the engine reports it.

    `cached_tokens` of the prompt were not processed again. `generated_tokens` counts every token that arrived, also
    those that nobody took from the stream. `requests` counts what was sent for the call, repetitions included.
    `accepted_tokens` of the `drafted_tokens` that a draft model proposed were right; 0 where an engine does not tell.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    requests: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def add(self, other: Usage) -> None:
        """Count another request's cost to this call's."""
        for name in Usage.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Engine(Protocol):
    """Where a model runs. Stateless: every call carries its whole prefix. Safe for concurrent calls.

    Every method raises EngineUnavailable, EngineTimeout or EngineProtocolError; `generate` and `prefill` raise
    ContextError where the prefix does not fit.
    """

    name: str

    async def facts(self) -> EngineFacts: ...

    async def render(self, messages: Sequence[Message]) -> str:
        """The chat as the model's template writes it, with the generation prompt at its end."""
        ...

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text, without BOS; `special` lets control tokens in the text become themselves."""
        ...

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the rendered chat, with BOS where the model wants one; control tokens written by users stay text."""
        ...

    async def decode(self, ids: Sequence[int]) -> str: ...

    def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        top: int,
        usage: Usage,
        session: Session | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[Token]]:
        """Open a stream of tokens that continues `ids`; leaving the context stops the engine at once."""
        ...

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
        """Have the engine cache a prefix; draws nothing."""
        ...

    def leave(self, session: Session) -> None:
        """The answer is over: nothing more will be asked for it."""
        ...

    async def close(self) -> None: ...
