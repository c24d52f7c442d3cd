"""Who asks. Keys are hashed before anything is looked up, and compared in constant time."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

from glimprouter.gateway.errors import ApiError
from glimprouter.gateway.settings import Key

MINUTE_S = 60.0


@dataclass(slots=True)
class Bucket:
    """So many a minute, saved up for a minute at most; what is found out later (tokens) may put it into debt."""

    per_minute: int
    clock: Callable[[], float]
    level: float = field(init=False)
    at: float = field(init=False)

    def __post_init__(self) -> None:
        self.level, self.at = float(self.per_minute), self.clock()

    def wait_s(self) -> float:
        """Seconds until there is one; 0 where there is, or where nothing is limited."""
        if not self.per_minute:
            return 0.0
        now = self.clock()
        self.level = min(float(self.per_minute), self.level + (now - self.at) * self.per_minute / MINUTE_S)
        self.at = now
        return max(0.0, (1.0 - self.level) * MINUTE_S / self.per_minute)

    def take(self, amount: int) -> None:
        self.level -= amount


class Client:
    """One key's holder: what it may ask for and how much of that it has had."""

    def __init__(self, name: str, key: Key | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._models = key.models if key else ()
        self._requests = Bucket(key.requests_per_minute if key else 0, clock)
        self._tokens = Bucket(key.tokens_per_minute if key else 0, clock)
        self._most = key.concurrent_answers if key else 0
        self._answers = 0

    def may_use(self, model: str) -> bool:
        return not self._models or model in self._models

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around one request. Raises ApiError 429 where a limit of the key is reached."""
        for bucket, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if wait_s := bucket.wait_s():
                raise ApiError(
                    429, f"this key has had its {what} of this minute", code="rate_limit_exceeded", retry_after_s=wait_s
                )
        if self._most and self._answers >= self._most:
            raise ApiError(
                429, "this key has as many answers under way as it may", code="rate_limit_exceeded", retry_after_s=1
            )
        self._requests.take(1)
        self._answers += 1
        try:
            yield
        finally:
            self._answers -= 1

    def spent(self, tokens: int) -> None:
        self._tokens.take(tokens)


class Clients:
    """All keys. Without any, everybody is the client `anonymous`."""

    def __init__(self, keys: Mapping[str, Key], *, before: Clients | None = None) -> None:
        """`before` are those of the settings that these replace: an unchanged key keeps its counts."""
        self.keys = dict(keys)
        kept = before.clients if before is not None else {}
        old = before.keys if before is not None else {}
        self.clients: dict[str, Client] = {
            name: kept[name] if old.get(name) == key else Client(name, key) for name, key in self.keys.items()
        }
        self._digests = [(name, bytes.fromhex(key.sha256)) for name, key in self.keys.items()]
        self._anonymous = Client("anonymous", None)

    def client(self, headers: Iterable[tuple[bytes, bytes]]) -> Client:
        """Raises ApiError 401 without a known key."""
        if not self._digests:
            return self._anonymous
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, secret = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        digest = sha256(secret.strip()).digest()
        found = [name for name, known in self._digests if hmac.compare_digest(known, digest)]
        if scheme.lower() != b"bearer" or not found:
            raise ApiError(401, "no valid key; send Authorization: Bearer KEY", code="invalid_api_key")
        return self.clients[found[0]]
