"""SGLang's native /generate: ids in, ids out. Written from its source (0.5.23) and tried on a fake only.

Its log-probabilities are of the distribution after the temperature, unless the server was started with
SGLANG_RETURN_ORIGINAL_LOGPROB=1. Among the k seen their ratios are still known: multiplied by the temperature and made
to sum to one they give the published estimator exactly. What mass was not seen can no longer be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder

from glimprouter.engines.dialects import Dialect, Draw, Event, Exchange, LazyTop, ModelInfo, Progress, Whole
from glimprouter.flow.engine import Finish, Session, Token

_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length"}
SCALED = (
    "the server divides log-probabilities by the temperature; this is undone, but the mass not seen, and so the bounds "
    "of each entropy, are lost: start SGLang with SGLANG_RETURN_ORIGINAL_LOGPROB=1"
)

_PAGE_TOKENS = 16
"""Its radix cache keeps single tokens, but reading fewer at a time is not worth a request."""

_Entry = tuple[float | None, int, str | None]


class _Finish(Struct):
    type: str
    matched: int | str | None = None
    message: str = ""


class _Meta(Struct):
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: _Finish | None = None
    output_token_logprobs: list[_Entry] = []


class _Reply(Struct):
    text: str
    output_ids: list[int]
    meta_info: _Meta


class _TopMeta(Struct):
    output_top_logprobs: list[list[_Entry] | None]


class _TopReply(Struct):
    meta_info: _TopMeta


_decode = Decoder(_Reply).decode
_decode_tops = Decoder(_TopReply).decode


def _body(draw: Draw, *, stream: bool, seeds: bool) -> dict[str, Any]:
    sampling = draw.sampling
    body: dict[str, Any] = {
        "input_ids": draw.ids,
        "stream": stream,
        "sampling_params": {
            "max_new_tokens": draw.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "repetition_penalty": 1.0,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        },
    }
    if seeds:
        body["sampling_params"]["sampling_seed"] = sampling.seed % 2**31
    if draw.top:
        body |= {"return_logprob": True, "top_logprobs_num": draw.top, "logprob_start_len": -1}
    return body


def _top_reader(from_end: int, temperature: float) -> Callable[[bytes], Sequence[tuple[int, float]]]:
    """Reads the log-probabilities of a token, counted from the last; undoes a temperature other than 1."""

    def read(data: bytes) -> Sequence[tuple[int, float]]:
        tops = _decode_tops(data).meta_info.output_top_logprobs
        entries = tops[-from_end] or () if from_end <= len(tops) else ()
        pairs = [(id_, -math.inf if value is None else value) for value, id_, _ in entries]
        pairs.sort(key=lambda pair: -pair[1])
        if temperature == 1.0:
            return tuple(pairs)
        return tuple(zip([id_ for id_, _ in pairs], _unscaled([v for _, v in pairs], temperature), strict=True))

    return read


def _unscaled(logprobs: Sequence[float], temperature: float) -> list[float]:
    raised = [value * temperature for value in logprobs]
    best = max(raised, default=0.0)
    total = best + math.log(math.fsum(math.exp(value - best) for value in raised)) if raised else 0.0
    return [value - total for value in raised]


def _read(data: bytes, draw: Draw, *, scaled: bool) -> tuple[list[Token], str, _Meta, Finish | None]:
    """What is new in a reply. Streams repeat everything from the start unless the server is told otherwise."""
    reply = _decode(data)
    meta, progress = reply.meta_info, draw.progress
    finish = _finish(meta)
    new = meta.completion_tokens - progress.tokens
    if not 0 <= new <= len(reply.output_ids):
        raise ValueError(f"{meta.completion_tokens} tokens drawn after {progress.tokens}, {len(reply.output_ids)} sent")
    repeats = len(reply.output_ids) > new or not progress.tokens
    text = reply.text[progress.characters :] if repeats else reply.text
    progress.tokens, progress.characters = meta.completion_tokens, len(reply.text)
    ids = reply.output_ids[len(reply.output_ids) - new :]
    chosen = meta.output_token_logprobs[-new:] if new else []
    temperature = draw.sampling.temperature if scaled and draw.sampling.temperature > 0 else 1.0
    tokens: list[Token] = []
    for place, id_ in enumerate(ids):
        last = place == len(ids) - 1
        if last and finish == "stop" and meta.finish_reason is not None and meta.finish_reason.matched == id_:
            if tokens and text:
                tokens[-1] = tokens[-1]._replace(text=text)
            break
        top = LazyTop(data, _top_reader(new - place, temperature)) if draw.top else ()
        logprob = chosen[place][0] if len(chosen) == new else None
        tokens.append(Token(id_, text if last else "", logprob, top))
    return tokens, text, meta, finish


def _finish(meta: _Meta) -> Finish | None:
    if meta.finish_reason is None:
        return None
    if meta.finish_reason.type not in _FINISH:
        raise ValueError(f"finish_reason {meta.finish_reason.type!r} {meta.finish_reason.message}")
    return _FINISH[meta.finish_reason.type]


def _is_context_error(kind: str, said: str) -> bool:  # noqa: ARG001
    return "context length" in said or "maximum allowed length" in said


def _read_prefill(data: bytes) -> None:
    _decode(data)


def sglang(
    model: str, context_tokens: int, *, scaled: bool, seeds: bool = True, warnings: tuple[str, ...] = ()
) -> Dialect:
    """`scaled`: the server divides log-probabilities by the temperature. `seeds`: it knows `sampling_seed`."""

    def read_event(data: bytes, draw: Draw) -> Event:
        if data.strip() == b"[DONE]":
            return Event([])
        tokens, text, meta, finish = _read(data, draw, scaled=scaled)
        joint = text if len(tokens) > 1 else None
        return Event(tokens, None, finish, meta.prompt_tokens, meta.cached_tokens, joint, last=False)

    def read_whole(data: bytes, draw: Draw) -> Whole:
        tokens, text, meta, finish = _read(data, replace(draw, progress=Progress()), scaled=scaled)
        if finish is None:
            raise ValueError("no finish_reason")
        return Whole([token.id for token in tokens], text, finish, meta.prompt_tokens, meta.cached_tokens, tokens)

    def prefix(ids: Sequence[int], session: Session | None) -> dict[str, Any]:  # noqa: ARG001
        return {"input_ids": ids, "sampling_params": {"max_new_tokens": 1, "temperature": 0.0}}

    return Dialect(
        name="sglang",
        generate=Exchange("/generate", lambda draw: _body(draw, stream=True, seeds=seeds), read_event),
        whole=Exchange("/generate", lambda draw: _body(draw, stream=False, seeds=seeds), read_whole),
        prefill=Exchange("/generate", prefix, _read_prefill),
        tokenize=None,
        detokenize=None,
        info=ModelInfo(model, context_tokens, cache_block_tokens=_PAGE_TOKENS),
        headers=lambda answer: {"X-Session-ID": answer, "X-SMG-Routing-Key": answer},
        is_context_error=_is_context_error,
        warnings=(*warnings, SCALED) if scaled else warnings,
    )
