"""How servers differ, as data: routes, request bodies, and what their replies say. No I/O here; `http.py` does that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

from glimprouter.errors import EngineProtocolError
from glimprouter.flow.engine import Finish, Sampling, Session, Token
from glimprouter.flow.prompt import FORMATS

T_co = TypeVar("T_co", covariant=True)

THOUGHT_TAGS = tuple(tag for known in FORMATS for tag in (known.open_tag, known.close_tag))


@dataclass(slots=True)
class Progress:
    """How much of a stream that repeats everything from its start has been read."""

    tokens: int = 0
    characters: int = 0


@dataclass(frozen=True, slots=True)
class Draw:
    """What a stream is asked for. `shown` are the tokens to be shown as text even if they are control tokens."""

    ids: Sequence[int]
    sampling: Sampling
    max_tokens: int
    top: int
    shown: tuple[str, ...] = ()
    session: Session | None = None
    progress: Progress = field(default_factory=Progress, compare=False)


@dataclass(slots=True)
class Event:
    """What one event of a stream says.

    `drawn` is the engine's own count of tokens so far: where it runs ahead of those received, ids are missing.
    A count that an event does not mention is None. `joint_text` is the text of all `tokens` together where the server
    does not tell it of each. `last`: nothing of interest follows; a stream whose `finish` was seen goes on until then.
    `accepted_tokens` of `drafted_tokens` so far, which a draft model proposed, were right.
    """

    tokens: list[Token]
    drawn: int | None = None
    finish: Finish | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    joint_text: str | None = None
    last: bool = True
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(slots=True)
class Whole:
    """A whole reply to a blocking call. The end token is in neither `ids` nor `text`.

    `tokens` are the same, each with the text and the log-probabilities that the server tells of it.
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
    """What a server says of the model it runs; 0 and "" where it does not."""

    model: str
    context_tokens: int = 0
    vocabulary_size: int = 0
    chat_template: str = ""
    cache_block_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T_co]):
    """One route: what is sent (None: a GET) and how the reply is read. `read` raises ValueError on a broken one.

    Readers of drawn tokens are given, besides the bytes, the `Draw` that they answer.
    """

    path: str
    body: Callable[..., dict[str, Any] | None]
    read: Callable[..., T_co]


@dataclass(frozen=True, slots=True)
class Recovery:
    """For a server that tells nothing of tokens that end within a character: how their ids are learnt."""

    pieces: Exchange[list[Piece]]
    top_after: Exchange[tuple[tuple[int, float], ...]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server, for one model on it. Readers of `generate` read the payload of one server-sent event.

    What is served is told by `info`, or by `model_info` of the replies to `facts`. A server renders a chat into text
    (`render`) or into ids (`encode_chat`), or neither. `most_top` is how many log-probabilities a token may carry.
    `headers` go with every call of an answer, made from its id. `is_context_error` tells whether the kind
    and the words of a refusal say that the prompt is too long. The body of `prefill` is made of ids and session.
    `spare_connection`: it minds no connection on which nothing is asked yet.
    """

    name: str
    generate: Exchange[Event]
    whole: Exchange[Whole]
    prefill: Exchange[None] | None
    tokenize: Exchange[list[int]] | None
    detokenize: Exchange[str] | None
    render: Exchange[str] | None = None
    encode_chat: Exchange[list[int]] | None = None
    recovery: Recovery | None = None
    info: ModelInfo | None = None
    facts: tuple[Exchange[Any], ...] = ()
    model_info: Callable[..., ModelInfo] | None = None
    most_top: int = 20
    headers: Callable[[str], Mapping[str, str]] = lambda answer: {"X-Session-ID": answer}
    is_context_error: Callable[[str, str], bool] = lambda kind, said: False  # noqa: ARG005
    takes_ids: bool = True
    spare_connection: bool = True
    warnings: tuple[str, ...] = ()


class LazyTop(Sequence[tuple[int, float]]):
    """The log-probabilities of one token, read when somebody looks: most tokens are no glimpse.

    `read` raises ValueError or LookupError for what is no list of log-probabilities, whoever looks EngineProtocolError.
    """

    __slots__ = ("_raw", "_read", "_seen")

    def __init__(self, raw: bytes, read: Callable[[bytes], Sequence[tuple[int, float]]]) -> None:
        self._raw = raw
        self._read = read
        self._seen: Sequence[tuple[int, float]] | None = None

    def _all(self) -> Sequence[tuple[int, float]]:
        if self._seen is None:
            try:
                self._seen = self._read(self._raw)
            except (ValueError, LookupError) as error:
                raise EngineProtocolError(f"the engine's log-probabilities cannot be read ({error})") from error
        return self._seen

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> tuple[int, float]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[int, float]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, float] | Sequence[tuple[int, float]]:
        return self._all()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]
