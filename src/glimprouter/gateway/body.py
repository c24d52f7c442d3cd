"""A request's body, before anybody asks what it means: how long, how late, how deep, and whether it is JSON at all."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

import msgspec

from glimprouter.gateway.errors import ApiError, refused

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Headers = list[tuple[bytes, bytes]]

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class ClientGone(Exception):
    """The client hung up before its request was whole."""


async def read_body(headers: Headers, receive: Receive, *, most_bytes: int, timeout_s: float) -> bytes:
    """Raises ApiError 408, 413 or 415, and ClientGone."""
    _check_headers(headers, most_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > most_bytes:
                    raise _too_large(most_bytes)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {timeout_s:g} s", code="body_timeout") from None


def _check_headers(headers: Headers, most_bytes: int) -> None:
    kind = b""
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and (len(value) > 15 or int(value) > most_bytes):
            raise _too_large(most_bytes)
        if name == b"content-encoding" and value.lower() != b"identity":
            raise ApiError(415, "send the body uncompressed", code="unsupported_encoding")
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError(415, "send Content-Type: application/json", code="unsupported_media_type")


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(413, f"the body is longer than {most_bytes} bytes", code="body_too_large")


def parse_body(body: bytes, *, most_depth: int) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN, half characters or deep nesting. Raises ApiError 400."""
    if body.count(b"[") + body.count(b"{") > most_depth:
        _check_depth(body, most_depth)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refused("the body is not JSON in UTF-8", None, code="invalid_json") from None
    if not isinstance(value, dict):
        raise refused("the body must be a JSON object", None, code="invalid_json")
    # Two readers may take two different ones of a pair of equal keys. Only the slower parser tells.
    json.loads(body, object_pairs_hook=_without_duplicates, parse_constant=_no_constant, parse_int=float)
    return value


def _check_depth(body: bytes, most_depth: int) -> None:
    depth = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", body)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > most_depth:
            raise refused(f"the body is nested deeper than {most_depth} levels", None, code="too_deep")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise refused("a key is given twice", twice[:64], code="duplicate_key")


def _no_constant(_: str) -> NoReturn:
    raise refused("NaN and Infinity are not JSON", None, code="invalid_json")
