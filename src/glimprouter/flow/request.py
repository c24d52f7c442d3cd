"""What is asked: messages, how to route, how to draw. Checked when made, so that nothing bad reaches an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from glimprouter.config import Routing, Sampling
from glimprouter.errors import RequestError
from glimprouter.flow.engine import Message

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Request:
    """One question. `stop` strings end the answer (never the thought) and do not appear in it."""

    messages: tuple[Message, ...]
    routing: Routing = field(default_factory=Routing)
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.messages:
            raise RequestError("messages is empty; give at least one message of role user", field="messages")
        for message in self.messages:
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise RequestError(f"role is {role!r}; accepted: {', '.join(ROLES)}", field="messages.role")
            if not isinstance(content, str):
                raise RequestError(f"content of a {role} message is {content!r}; give text", field="messages.content")
            if not _is_unicode(content):
                raise RequestError(f"content of a {role} message is not valid Unicode", field="messages.content")
            if role == "user" and not content.strip():
                raise RequestError("the question is empty; write one", field="question")
        if self.messages[-1]["role"] != "user":
            raise RequestError("the last message must be of role user", field="messages")
        if any(not text for text in self.stop):
            raise RequestError("stop holds an empty string; give strings of at least one character", field="stop")


def ask(
    question: str,
    *,
    system: str | None = None,
    routing: Routing | None = None,
    sampling: Sampling | None = None,
    stop: tuple[str, ...] = (),
) -> Request:
    """A request for a single question."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    return Request(tuple(messages), routing or Routing(), sampling or Sampling(), stop)


def _is_unicode(text: str) -> bool:
    """False for half surrogate pairs, which bad bytes in arguments turn into."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
