"""What can go wrong, as a tree. Foreign errors are mapped into it once, where they enter.

GlimprouterError
 ├─ InputError            the caller can mend it: names field, value, what is accepted, how to mend (exit 2, HTTP 4xx)
 │   ├─ ConfigError       a config key, option or environment value
 │   ├─ RequestError      a question, message or sampling field
 │   ├─ ModelError        a model that cannot be had: missing or damaged file, no chat template, unreachable address
 │   ├─ PairError         two models that cannot work together
 │   └─ ContextError      a prompt longer than a model's context
 └─ EngineError           an engine failed while it worked (exit 1, HTTP 5xx); what was written so far is kept
     ├─ EngineUnavailable connection refused, reset, or the process is gone
     ├─ EngineTimeout     no byte within the time allowed
     └─ EngineProtocolError  a reply that breaks the engine's own format
"""

from __future__ import annotations


class GlimprouterError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(GlimprouterError):
    """Bad input. `field` names what is wrong; the message says what was given, what is accepted, how to mend it."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(InputError):
    pass


class RequestError(InputError):
    pass


class ModelError(InputError):
    pass


class PairError(InputError):
    pass


class ContextError(InputError):
    pass


class EngineError(GlimprouterError):
    """An engine failed while it worked; `engine` is its name.

    `final`: the request would fail again, here and on any other replica. `retry_after_s`: how long the engine asks to
    be left alone.
    """

    def __init__(
        self, message: str, *, engine: str = "", final: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.engine = engine
        self.final = final
        self.retry_after_s = retry_after_s


class EngineUnavailable(EngineError):
    pass


class EngineTimeout(EngineError):
    pass


class EngineProtocolError(EngineError):
    pass
