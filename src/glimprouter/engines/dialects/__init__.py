"""How servers differ, as data: routes, request bodies, and what their replies say. No I/O here; `http.py` does that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from glimprouter.flow.engine import Finish, Sampling, Session, Token
from glimprouter.flow.prompt import FORMATS

T_co = TypeVar("T_co", covariant=True)

THOUGHT_TAGS = tuple(tag for known in FORMATS for tag in (known.open_tag, known.close_tag))


@dataclass(frozen=True, slots=True)
class Draw:
    """What a stream is asked for. `shown` are the tokens to be shown as text even if they are control tokens."""

    ids: Sequence[int]
    sampling: Sampling
    max_tokens: int
    top: int
    shown: tuple[str, ...] = ()
    session: Session | None = None


@dataclass(slots=True)
class Event:
    """What one event of a stream says.

    `drawn` is the engine's own count of tokens so far: where it runs ahead of those received, ids are missing.
    A count that an event does not mention is None.
    """

    tokens: list[Token]
    drawn: int | None = None
    finish: Finish | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(slots=True)
class Whole:
    """A whole reply to a blocking call. The end token is in neither `ids` nor `text`.

    `tokens` are the same with text and log-probabilities each, as far as the server tells them: a beginning of `ids`.
    """

    ids: list[int]
    text: str
    finish: Finish
    prompt_tokens: int
    cached_tokens: int
    tokens: list[Token]


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a text with the bytes it stands for, which may be part of a character."""

    id: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a server says of the model it runs."""

    model: str
    context_tokens: int
    vocabulary_size: int
    chat_template: str


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T_co]):
    """One route: what is sent (None: a GET) and how the reply is read. `read` raises ValueError on a broken one."""

    path: str
    body: Callable[..., dict[str, Any] | None]
    read: Callable[[bytes], T_co]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server. `generate.read` reads the payload of one server-sent event, the others a whole reply."""

    name: str
    generate: Exchange[Event]
    whole: Exchange[Whole]
    prefill: Exchange[None]
    render: Exchange[str]
    tokenize: Exchange[list[int]]
    pieces: Exchange[list[Piece]]
    top_after: Exchange[tuple[tuple[int, float], ...]]
    detokenize: Exchange[str]
    facts: tuple[Exchange[Any], ...]
    model_info: Callable[..., ModelInfo]
