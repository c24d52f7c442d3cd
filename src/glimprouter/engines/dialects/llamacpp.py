"""llama.cpp's own server.

Fields follow its tools/server/README.md; what that leaves open was found by request and stands in comments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from msgspec import Struct, field
from msgspec.json import Decoder

from glimprouter.engines.dialects import Dialect, Draw, Event, Exchange, LazyTop, ModelInfo, Piece, Recovery, Whole
from glimprouter.flow.engine import Finish, Message, Sampling, Session, Token

_UINT32 = 0xFFFF_FFFF


class _Top(Struct, gc=False):
    id: int
    logprob: float


class _Prob(Struct, gc=False):
    id: int
    logprob: float
    token: str = ""


class _TopProb(Struct):
    top_logprobs: list[_Top]


class _TopReply(Struct):
    completion_probabilities: list[_TopProb]


class _Progress(Struct, gc=False):
    cache: int


class _Timings(Struct, gc=False):
    cache_n: int = 0
    draft_n: int = 0
    draft_n_accepted: int = 0


class _Completion(Struct):
    content: str
    tokens: list[int]
    stop: bool
    tokens_predicted: int
    tokens_evaluated: int
    completion_probabilities: list[_Prob] = field(default_factory=list)
    prompt_progress: _Progress | None = None
    stop_type: str = ""
    timings: _Timings | None = None


class _Timed(Struct):
    timings: _Timings | None = None


class _Final(Struct):
    stop: bool


class _Prompt(Struct):
    prompt: str


class _Ids(Struct):
    tokens: list[int]


class _Piece(Struct):
    id: int
    piece: str | list[int]


class _Pieces(Struct):
    tokens: list[_Piece]


class _Content(Struct):
    content: str


class _Generation(Struct):
    n_ctx: int


class _Props(Struct):
    default_generation_settings: _Generation
    chat_template: str


class _Meta(Struct):
    n_vocab: int


class _Model(Struct):
    id: str
    meta: _Meta


class _Models(Struct):
    data: list[_Model]


_decode_completion = Decoder(_Completion).decode
_decode_timed = Decoder(_Timed).decode
_decode_tops = Decoder(_TopReply).decode
_decode_final = Decoder(_Final).decode
_FINISH: dict[str, Finish] = {"eos": "stop", "word": "stop", "limit": "length"}


def _samplers(sampling: Sampling) -> list[str]:
    """Only what was asked for, in vLLM's order: llama.cpp's own cuts by top-p before it applies the temperature."""
    asked = {
        "penalties": sampling.presence_penalty != 0 or sampling.frequency_penalty != 0,
        "temperature": True,
        "min_p": sampling.min_p > 0,
        "top_k": sampling.top_k > 0,
        "top_p": sampling.top_p < 1,
    }
    return [name for name, wanted in asked.items() if wanted]


def _completion_body(draw: Draw) -> dict[str, Any]:
    sampling = draw.sampling
    return {
        "prompt": draw.ids,
        "n_predict": draw.max_tokens,
        "stream": True,
        "return_tokens": True,
        "return_progress": True,  # the only word on cached tokens that a stream closed early gets to see
        "n_probs": draw.top,
        "post_sampling_probs": False,
        "cache_prompt": True,
        "preserved_tokens": draw.shown,
        "samplers": _samplers(sampling),
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": 1.0,
        "repeat_last_n": draw.max_tokens,  # the prompt's last tokens count too: there is no way to leave them out
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed & _UINT32,
    }


def _top_at(place: int) -> Callable[[bytes], Sequence[tuple[int, float]]]:
    return lambda data: tuple(
        [(top.id, top.logprob) for top in _decode_tops(data).completion_probabilities[place].top_logprobs]
    )


_last_top = _top_at(-1)


def _read_completion(data: bytes, draw: Draw) -> Event:
    """An event holds one token, or none: progress of the prompt (which carries a token 0 that nobody drew), the end."""
    reply = _decode_completion(data)
    if reply.prompt_progress is not None:
        return Event([], None, None, reply.tokens_evaluated, reply.prompt_progress.cache, last=False)
    if reply.stop:
        finish = _FINISH.get(reply.stop_type)
        if finish is None:
            raise ValueError(f"unknown stop_type {reply.stop_type!r}")
        cached = reply.timings.cache_n if reply.timings else None
        return Event([], reply.tokens_predicted, finish, reply.tokens_evaluated, cached)
    return Event(_drawn(reply, data, draw.top), reply.tokens_predicted, last=False)


def _speculating_body(draw: Draw) -> dict[str, Any]:
    # Else the draft's account comes with the last event only, which a stream closed early never gets to see.
    return _completion_body(draw) | {"timings_per_token": True}


def _read_speculating(data: bytes, draw: Draw) -> Event:
    event, timings = _read_completion(data, draw), _decode_timed(data).timings
    if timings is not None:
        event.drafted_tokens, event.accepted_tokens = timings.draft_n, timings.draft_n_accepted
    return event


def _whole_body(draw: Draw) -> dict[str, Any]:
    return _completion_body(draw) | {"stream": False, "return_progress": False}


def _read_whole(data: bytes, draw: Draw) -> Whole:
    """A token that ends within a character has no entry among the probabilities, and no text of its own."""
    reply = _decode_completion(data)
    if reply.stop_type not in _FINISH:
        raise ValueError(f"unknown stop_type {reply.stop_type!r}")
    cached = reply.timings.cache_n if reply.timings else 0
    ids = reply.tokens[:-1] if reply.stop_type == "eos" else reply.tokens
    tokens, place = [], 0
    for id_ in ids:
        prob = reply.completion_probabilities[place] if place < len(reply.completion_probabilities) else None
        if prob is None or prob.id != id_:
            tokens.append(Token(id_, ""))
            continue
        tokens.append(Token(id_, prob.token, prob.logprob, LazyTop(data, _top_at(place)) if draw.top else ()))
        place += 1
    return Whole(ids, reply.content, _FINISH[reply.stop_type], reply.tokens_evaluated, cached, tokens)


def _drawn(reply: _Completion, data: bytes, top: int) -> list[Token]:
    if len(reply.tokens) != 1:
        raise ValueError(f"{len(reply.tokens)} ids in one event")
    if not reply.completion_probabilities:
        return [Token(reply.tokens[0], reply.content)]
    prob = reply.completion_probabilities[-1]
    if prob.id != reply.tokens[0]:
        raise ValueError(f"log-probability of id {prob.id} beside id {reply.tokens[0]}")
    return [Token(prob.id, reply.content, prob.logprob, LazyTop(data, _last_top) if top else ())]


def _top_after_body(ids: Sequence[int], top: int) -> dict[str, Any]:
    # Forced to draw a whole character, for half a one comes without log-probabilities. Bias does not touch these.
    forced = {"temperature": 0.0, "samplers": ["temperature"], "logit_bias": [["a", 1000]]}
    return {"prompt": ids, "n_predict": 1, "n_probs": top, "cache_prompt": True, "post_sampling_probs": False} | forced


def _read_top_after(data: bytes) -> tuple[tuple[int, float], ...]:
    return tuple(_top_at(0)(data))


def _prefill_body(ids: Sequence[int], session: Session | None) -> dict[str, Any]:  # noqa: ARG001
    # n_predict 0 fills the cache; the one token that the reply then shows is drawn from it and forgotten.
    return {"prompt": ids, "n_predict": 0, "cache_prompt": True}


def _read_prefill(data: bytes) -> None:
    if not _decode_final(data).stop:
        raise ValueError("prefill did not end")


def _tokenize_body(text: str, *, special: bool, begin: bool = False) -> dict[str, Any]:
    return {"content": text, "parse_special": special, "add_special": begin}


def _read_pieces(data: bytes) -> list[Piece]:
    tokens = Decoder(_Pieces).decode(data).tokens
    return [Piece(t.id, t.piece.encode() if isinstance(t.piece, str) else bytes(t.piece)) for t in tokens]


def _llamacpp_info(props: _Props, models: _Models) -> ModelInfo:
    model = models.data[0]
    return ModelInfo(model.id, props.default_generation_settings.n_ctx, model.meta.n_vocab, props.chat_template)


def _render_body(messages: Sequence[Message]) -> dict[str, Any]:
    return {"messages": list(messages), "add_generation_prompt": True}


LLAMACPP = Dialect(
    name="llamacpp",
    generate=Exchange("/completion", _completion_body, _read_completion),
    whole=Exchange("/completion", _whole_body, _read_whole),
    prefill=Exchange("/completion", _prefill_body, _read_prefill),
    render=Exchange("/apply-template", _render_body, lambda data: Decoder(_Prompt).decode(data).prompt),
    tokenize=Exchange("/tokenize", _tokenize_body, lambda data: Decoder(_Ids).decode(data).tokens),
    recovery=Recovery(
        pieces=Exchange("/tokenize", lambda text: {"content": text, "with_pieces": True}, _read_pieces),
        top_after=Exchange("/completion", _top_after_body, _read_top_after),
    ),
    detokenize=Exchange(
        "/detokenize", lambda ids: {"tokens": ids}, lambda data: Decoder(_Content).decode(data).content
    ),
    facts=(
        Exchange("/props", lambda: None, Decoder(_Props).decode),
        Exchange("/v1/models", lambda: None, Decoder(_Models).decode),
    ),
    model_info=_llamacpp_info,
    is_context_error=lambda kind, said: kind == "exceed_context_size_error",  # noqa: ARG005
    most_top=1000,
    spare_connection=False,  # a connection that waits takes a thread of the server's pool
)

SPECULATING = replace(
    LLAMACPP,
    generate=Exchange("/completion", _speculating_body, _read_speculating),
    most_top=0,  # a token that was proposed and accepted comes without log-probabilities
)
"""The same with a draft model beside the model."""
