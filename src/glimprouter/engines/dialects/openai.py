"""Any OpenAI-compatible server, spoken to in text.

That is /v1/completions where a prompt can be rendered, else chat completions that continue the assistant's turn.
Servers differ in what they do with a turn of the assistant's at the end. vLLM and SGLang continue it when asked to
(`continue_final_message`), others simply do, some take `prefix: true`; all three are sent. A host that begins anew
instead cannot be the large model of a pair; `doctor` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder

from glimprouter.engines.dialects import Dialect, Draw, Event, Exchange, ModelInfo, Whole
from glimprouter.engines.text_mode import Pieces
from glimprouter.flow.engine import Finish, Token

_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "eos_token": "stop"}
MOST_TOP = 5
"""What the completions routes of hosts give as a rule."""


class _Entry(Struct):
    token: str
    logprob: float
    top_logprobs: list[_Entry] = []


class _Logprobs(Struct):
    """Of the completions route (`tokens` and lists beside it) or of the chat route (`content`)."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    content: list[_Entry] | None = None


class _Said(Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def text(self) -> str:
        return (self.reasoning or self.reasoning_content or "") + (self.content or "")


class _Choice(Struct):
    text: str | None = None
    delta: _Said | None = None
    message: _Said | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> str:
        said = self.delta or self.message
        return said.text if said is not None else self.text or ""


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Reply(Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_decode = Decoder(_Reply).decode


@dataclass(frozen=True, slots=True)
class _Speaker:
    """What one model is sent and how its replies are read. `renders`: prompts are text; else chats are continued."""

    model: str
    pieces: Pieces
    renders: bool

    def streamed(self, draw: Draw) -> dict[str, Any]:
        return self.whole(draw) | {"stream": True, "stream_options": {"include_usage": True}}

    def whole(self, draw: Draw) -> dict[str, Any]:
        sampling = draw.sampling
        return {
            "model": self.model,
            "max_tokens": draw.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "seed": sampling.seed % 2**31,
            **(self._prompt(draw) if self.renders else self._chat(draw)),
        }

    def _prompt(self, draw: Draw) -> dict[str, Any]:
        return {"prompt": self.pieces.sent(draw.ids)} | ({"logprobs": draw.top} if draw.top else {})

    def _chat(self, draw: Draw) -> dict[str, Any]:
        written = self.pieces.sent(draw.ids)
        asked: dict[str, Any] = {"messages": [*self.pieces.chat(draw.ids)]}
        if written:
            asked["messages"].append({"role": "assistant", "content": written, "prefix": True})
            asked |= {"continue_final_message": True, "add_generation_prompt": False}
        return asked | ({"logprobs": True, "top_logprobs": draw.top} if draw.top else {})

    def read_event(self, data: bytes, draw: Draw) -> Event:  # noqa: ARG002
        if data.strip() == b"[DONE]":
            return Event([])
        reply = _decode(data)
        prompt_tokens = reply.usage.prompt_tokens if reply.usage is not None else None
        if not reply.choices:
            return Event([], None, None, prompt_tokens, _cached(reply.usage))
        choice = reply.choices[0]
        return Event(self._tokens(choice), None, _finish(choice), prompt_tokens, last=False)

    def read_whole(self, data: bytes, draw: Draw) -> Whole:  # noqa: ARG002
        reply = _decode(data)
        choice = reply.choices[0]
        finish = _finish(choice)
        if finish is None:
            raise ValueError("no finish_reason")
        drawn = self._tokens(choice)
        prompt_tokens = reply.usage.prompt_tokens if reply.usage is not None else 0
        ids = [token.id for token in drawn]
        return Whole(ids, choice.said, finish, prompt_tokens, _cached(reply.usage) or 0, drawn)

    def _tokens(self, choice: _Choice) -> list[Token]:
        """A token that shows no text yet, for it ends within a character, has no number and is left out."""
        tokens = []
        for text, logprob, top in _parts(choice.said, choice.logprobs) if choice.said else ():
            if text:
                tokens += self._numbered(text, logprob, top)
        return tokens

    def _numbered(self, text: str, logprob: float | None, top: Sequence[tuple[str, float]]) -> list[Token]:
        label = self.pieces.label
        first, *others = self.pieces.numbers(text)
        if not others:
            return [Token(first, text, logprob, tuple([(label(other), value) for other, value in top]))]
        tops = tuple([(first if other == text else label(other), value) for other, value in top])
        return [Token(first, text[0], logprob, tops), *(Token(id_, chr(id_)) for id_ in others)]


def openai(model: str, context_tokens: int, pieces: Pieces, *, renders: bool, warnings: tuple[str, ...]) -> Dialect:
    """The dialect for one model. `renders`: prompts are text for /v1/completions; else chats are continued."""
    speaker = _Speaker(model, pieces, renders)
    path = "/v1/completions" if renders else "/v1/chat/completions"
    return Dialect(
        name="openai",
        generate=Exchange(path, speaker.streamed, speaker.read_event),
        whole=Exchange(path, speaker.whole, speaker.read_whole),
        prefill=None,
        tokenize=None,
        detokenize=None,
        info=ModelInfo(model, context_tokens),
        most_top=MOST_TOP,
        takes_ids=False,
        is_context_error=_is_context_error,
        warnings=warnings,
    )


def _is_context_error(kind: str, said: str) -> bool:
    told = ("context length", "context window", "`inputs` tokens + `max_new_tokens`", "`inputs` must have less than")
    return kind == "context_length_exceeded" or any(words in said for words in told)


def _parts(said: str, logprobs: _Logprobs | None) -> list[tuple[str, float | None, Sequence[tuple[str, float]]]]:
    """The tokens of a piece of text, each with its log-probabilities; one token where the server does not part it."""
    if logprobs is not None and logprobs.content:
        entries = logprobs.content
        if "".join(entry.token for entry in entries) == said:
            return [
                (entry.token, entry.logprob, [(other.token, other.logprob) for other in entry.top_logprobs])
                for entry in entries
            ]
    if logprobs is not None and logprobs.tokens and "".join(logprobs.tokens) == said:
        chosen = logprobs.token_logprobs or [None] * len(logprobs.tokens)
        tops = logprobs.top_logprobs or [None] * len(logprobs.tokens)
        return [
            (text, logprob, sorted((top or {}).items(), key=lambda item: -item[1]))
            for text, logprob, top in zip(logprobs.tokens, chosen, tops, strict=True)
        ]
    return [(said, None, ())]


def _finish(choice: _Choice) -> Finish | None:
    if choice.finish_reason is None:
        return None
    if choice.finish_reason not in _FINISH:
        raise ValueError(f"unknown finish_reason {choice.finish_reason!r}")
    return _FINISH[choice.finish_reason]


def _cached(usage: _Usage | None) -> int | None:
    details = usage.prompt_tokens_details if usage is not None else None
    return details.cached_tokens if details is not None else None
