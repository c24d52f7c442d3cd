"""vLLM's OpenAI server, 0.10 and later: ids in, ids out, on /v1/completions.

Fields follow its documentation; what that leaves open was found by request (0.32.0) and stands in comments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder

from glimprouter.engines.dialects import Dialect, Draw, Event, Exchange, LazyTop, ModelInfo, Whole
from glimprouter.flow.engine import Finish, Message, Session, Token

_ID = len("token_id:")
WARM_DELAY_S = 3600
"""How much later than its answer a warming call counts as arrived: it waits for whoever needs a token."""

_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length"}
_NOBODY = {"skip_special_tokens": False, "spaces_between_special_tokens": False, "add_special_tokens": False}


class _Logprobs(Struct):
    token_logprobs: list[float | None]


class _Choice(Struct):
    text: str
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Details(Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int
    prompt_tokens_details: _Details | None = None


class _Reply(Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Tops(Struct):
    top_logprobs: list[dict[str, float | None] | None]


class _TopChoice(Struct):
    logprobs: _Tops


class _TopReply(Struct):
    choices: list[_TopChoice]


class _Ids(Struct):
    tokens: list[int]


class _Text(Struct):
    prompt: str


_decode_reply = Decoder(_Reply).decode
_decode_tops = Decoder(_TopReply).decode


def _sampling(model: str, draw: Draw, *, queued: bool) -> dict[str, Any]:
    sampling = draw.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": draw.ids,
        "max_tokens": draw.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": 1.0,
        "seed": sampling.seed,
        "return_token_ids": True,
        **_NOBODY,
    }
    if draw.top:
        # As ids: texts as keys would make one of tokens that decode alike.
        body |= {"logprobs": draw.top, "return_tokens_as_token_ids": True}
    if queued and draw.session is not None:
        body["priority"] = int(draw.session.arrived_unix_s)
    return body


def _top_reader(place: int, most: int) -> Callable[[bytes], Sequence[tuple[int, float]]]:
    def read(data: bytes) -> Sequence[tuple[int, float]]:
        """Best first. The token drawn is added where it is none of the best: it goes again."""
        top = _decode_tops(data).choices[0].logprobs.top_logprobs[place]
        if not top:
            return ()
        pairs = [(int(key[_ID:]), -float("inf") if value is None else value) for key, value in top.items()]
        pairs.sort(key=lambda pair: -pair[1])
        return tuple(pairs[:most])

    return read


_READERS = {(place, most): _top_reader(place, most) for place in range(8) for most in range(1, 33)}


def _tokens(choice: _Choice, data: bytes, top: int) -> list[Token]:
    """The tokens of a reply, all text with the last one; the end token, which shows no text, is left out."""
    ids = choice.token_ids
    if ids is None:
        raise ValueError("no token_ids; return_token_ids needs vLLM 0.10 or later")
    if choice.finish_reason == "stop":
        ids = ids[:-1]
    chosen = choice.logprobs.token_logprobs if choice.logprobs is not None else ()
    tokens = []
    for place, id_ in enumerate(ids):
        text = choice.text if place == len(ids) - 1 else ""
        if chosen:
            reader = _READERS.get((place, top)) or _top_reader(place, top)
            tokens.append(Token(id_, text, chosen[place], LazyTop(data, reader)))
        else:
            tokens.append(Token(id_, text))
    return tokens


def _read_event(data: bytes, draw: Draw) -> Event:
    """A chunk holds a token as a rule, several when the reader lags or the engine speculates; then usage and [DONE]."""
    if data.strip() == b"[DONE]":
        return Event([])
    reply = _decode_reply(data)
    usage = reply.usage
    prompt_tokens = usage.prompt_tokens if usage is not None else None
    if not reply.choices:
        details = usage.prompt_tokens_details if usage is not None else None
        return Event([], None, None, prompt_tokens, details.cached_tokens if details is not None else None)
    choice = reply.choices[0]
    tokens = _tokens(choice, data, draw.top)
    finish = None
    if choice.finish_reason is not None:
        finish = _FINISH.get(choice.finish_reason)
        if finish is None:
            raise ValueError(f"unknown finish_reason {choice.finish_reason!r}")
    joint = choice.text if len(tokens) > 1 else None
    return Event(tokens, None, finish, prompt_tokens, None, joint, last=False)


def _read_whole(data: bytes, draw: Draw) -> Whole:
    reply = _decode_reply(data)
    choice, usage = reply.choices[0], reply.usage
    finish = _FINISH.get(choice.finish_reason or "")
    if finish is None or usage is None:
        raise ValueError(f"unknown finish_reason {choice.finish_reason!r}, or no usage")
    details = usage.prompt_tokens_details
    cached = details.cached_tokens or 0 if details is not None else 0
    tokens = _tokens(choice, data, draw.top)
    return Whole([token.id for token in tokens], choice.text, finish, usage.prompt_tokens, cached, tokens)


def _read_prefill(data: bytes) -> None:
    _decode_reply(data)


def _is_context_error(kind: str, said: str) -> bool:  # noqa: ARG001
    return "maximum context length" in said or "maximum model length" in said


def _block_tokens(data: bytes) -> int:
    """Of the gauge that tells how the cache is set up; 16 as on GPUs where it is not there."""
    found = re.search(rb'cache_config_info\{[^}]*block_size="(\d+)"', data)
    return int(found[1]) if found else 16


METRICS = Exchange("/metrics", lambda: None, _block_tokens)


def vllm(model: str, context_tokens: int, *, priorities: bool, block_tokens: int = 16) -> Dialect:
    """The dialect for one served model. `priorities`: the server takes the field, whether or not it schedules by it."""

    def streamed(draw: Draw) -> dict[str, Any]:
        stream = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        return _sampling(model, draw, queued=priorities) | stream

    def chat(messages: Sequence[Message]) -> dict[str, Any]:
        return {"model": model, "messages": list(messages), "add_generation_prompt": True, "add_special_tokens": False}

    def text(text: str, *, special: bool, begin: bool = False) -> dict[str, Any]:  # noqa: ARG001
        # Control tokens are always read as such: plain text is cut inside them before it comes here.
        return {"model": model, "prompt": text, "add_special_tokens": False}

    def prefix(ids: Sequence[int], session: Session | None) -> dict[str, Any]:
        body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0}  # 0 tokens are refused
        if priorities and session is not None:
            body["priority"] = int(session.arrived_unix_s) + WARM_DELAY_S
        return body

    return Dialect(
        name="vllm",
        generate=Exchange("/v1/completions", streamed, _read_event),
        whole=Exchange("/v1/completions", lambda draw: _sampling(model, draw, queued=priorities), _read_whole),
        prefill=Exchange("/v1/completions", prefix, _read_prefill),
        tokenize=Exchange("/tokenize", text, lambda data: Decoder(_Ids).decode(data).tokens),
        detokenize=Exchange(
            "/detokenize",
            lambda ids: {"model": model, "tokens": ids},
            lambda data: Decoder(_Text).decode(data).prompt,
        ),
        encode_chat=Exchange("/tokenize", chat, lambda data: Decoder(_Ids).decode(data).tokens),
        info=ModelInfo(model, context_tokens, cache_block_tokens=block_tokens),
        is_context_error=_is_context_error,
    )
