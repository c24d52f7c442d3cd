"""What servers say when they refuse or fail, in the shapes they say it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

_PROMPT_TOKENS = re.compile(
    r"prompt contains (?:at least )?(\d+)|\((\d+) tokens\) is longer|\((\d+) in the messages|\(length (\d+)\) is longer"
)
_CONTEXT_TOKENS = re.compile(
    r"maximum context length is (\d+)|context length \((\d+)|maximum model length of (\d+)|allowed length \((\d+)"
)


class _Told(msgspec.Struct):
    message: str = ""
    type: str | None = ""
    code: int | str | None = None
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _Nested(msgspec.Struct):
    error: _Told | str


class _Flat(msgspec.Struct):
    """FastAPI's own refusals, and those of older vLLM and SGLang."""

    detail: str = ""
    message: str = ""
    object: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as a server tells it. Counts are 0 where it does not tell them."""

    message: str
    kind: str = ""
    prompt_tokens: int = 0
    context_tokens: int = 0


_decode_nested = msgspec.json.Decoder(_Nested).decode
_decode_flat = msgspec.json.Decoder(_Flat).decode


def fault_in(data: bytes) -> Fault | None:
    """The error that a body reports, if it is one."""
    try:
        told = _decode_nested(data).error
    except msgspec.DecodeError:
        return _flat_fault(data)
    if isinstance(told, str):
        return Fault(told)
    prompt = told.n_prompt_tokens or _number(_PROMPT_TOKENS, told.message)
    context = told.n_ctx or _number(_CONTEXT_TOKENS, told.message)
    kind = told.code if isinstance(told.code, str) else told.type or ""
    return Fault(told.message, kind, prompt, context)


def _flat_fault(data: bytes) -> Fault | None:
    try:
        told = _decode_flat(data)
    except msgspec.DecodeError:
        return None
    message = told.detail or (told.message if told.object == "error" else "")
    return Fault(message, "", _number(_PROMPT_TOKENS, message), _number(_CONTEXT_TOKENS, message)) if message else None


def _number(pattern: re.Pattern[str], said: str) -> int:
    match = pattern.search(said)
    return int(next(group for group in match.groups() if group)) if match else 0


def seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for; dates, which engines do not send, count as nothing."""
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else None
    except ValueError:
        return None
