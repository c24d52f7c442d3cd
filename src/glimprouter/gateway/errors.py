"""Every error a client can meet, in OpenAI's shape. What an engine said of a prompt goes to nobody."""

from __future__ import annotations

import orjson

from glimprouter.errors import ContextError, EngineError, EngineTimeout, EngineUnavailable, InputError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error. `retry_after_s` says when to come again; `retry` False: that a retry is of no use."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.retry = retry

    def body(self) -> bytes:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return orjson.dumps({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = []
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(max(1, round(self.retry_after_s))).encode()))
        if self.retry is not None:
            headers.append((b"x-should-retry", b"true" if self.retry else b"false"))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


def refused(message: str, param: str | None, *, code: str | None = None) -> ApiError:
    """A request that cannot be served as it stands."""
    return ApiError(400, message, param=param, code=code)


def api_error(error: Exception) -> ApiError:
    """What a client is told of an error of ours. An engine's own words may quote the prompt, so they are left out."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextError):
        return refused(str(error), "messages", code="context_length_exceeded")
    if isinstance(error, InputError):
        return refused(str(error), error.field)
    if isinstance(error, EngineTimeout):
        return ApiError(504, "an engine did not answer in time", code="engine_timeout")
    if isinstance(error, EngineUnavailable):
        return ApiError(503, "an engine is not to be reached", code="engine_unavailable", retry_after_s=1)
    if isinstance(error, EngineError):
        return ApiError(502, "an engine failed", code="engine_failed")
    return ApiError(500, "the gateway failed; its log says where", code="internal_error")
