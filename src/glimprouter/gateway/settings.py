"""The gateway's settings: the table [gateway] of the one TOML file, beside what `config.py` reads of it."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from glimprouter.config import Config, from_table
from glimprouter.errors import ConfigError
from glimprouter.policies import check_policy

_REFERENCE = re.compile(r"\$\{(\w+)\}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key, kept as its SHA-256 digest in hexadecimal. 0 requests, tokens or answers means no limit."""

    sha256: str
    models: tuple[str, ...] = ()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent_answers: int = 0

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.sha256):
            raise ConfigError(
                "sha256 is no digest; give 64 hexadecimal digits: printf %s KEY | sha256sum", field="sha256"
            )
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent_answers"):
            _at_least(name, getattr(self, name), 0)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What `[gateway]` may say. `reasoning`: where the thought stands in a reply. `admin_port` 0: no second port."""

    host: str = "127.0.0.1"
    port: int = 8000
    admin_host: str = "127.0.0.1"
    admin_port: int = 9100
    open: bool = False
    reasoning: Literal["both", "reasoning_content", "reasoning", "inline"] = "both"
    local_parallel: int = 4
    max_body_bytes: int = 4_000_000
    max_depth: int = 32
    body_timeout_s: float = 10.0
    max_in_flight: int = 64
    max_queue: int = 64
    queue_timeout_s: float = 30.0
    answer_timeout_s: float = 3600.0
    heartbeat_s: float = 10.0
    drain_s: float = 30.0
    keys: dict[str, Key] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("port", "admin_port"):
            _at_least(name, getattr(self, name), 0, 65_535)
        for name in ("local_parallel", "max_body_bytes", "max_depth", "max_in_flight"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_queue", "queue_timeout_s", "drain_s"):
            _at_least(name, getattr(self, name), 0)
        for name in ("body_timeout_s", "answer_timeout_s", "heartbeat_s"):
            _at_least(name, getattr(self, name), 0.05)
        if not self.keys and not self.open and not is_loopback(self.host):
            raise ConfigError(
                f"host is {self.host!r}, which others can reach, and there are no keys; add [gateway.keys.NAME], or "
                "set open = true to serve everybody",
                field="host",
            )


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole file: how questions are answered, and how that is served."""

    config: Config = field(default_factory=Config)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(path: Path | None) -> Settings:
    """Read a file, or the defaults without one. Every ConfigError names the key, what was given, what is accepted."""
    if path is None:
        return Settings()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        message = f"--config {path}: cannot be read ({error.strerror}); give a TOML file"
        raise ConfigError(message, field="config") from error
    except ValueError as error:
        raise ConfigError(f"--config {path}: not valid TOML ({error})", field="config") from error
    table = _interpolated(table, where=str(path), name="")
    gateway = table.pop("gateway", {})
    if not isinstance(gateway, dict):
        raise ConfigError(f"{path}: gateway must be a table, [gateway]", field="gateway")
    keys = gateway.pop("keys", {})
    if not isinstance(keys, dict) or not all(isinstance(entry, dict) for entry in keys.values()):
        raise ConfigError(f"{path}: gateway.keys must hold tables, [gateway.keys.NAME]", field="gateway.keys")
    where = str(path)
    known = {name: from_table(Key, entry, where=where, prefix=f"gateway.keys.{name}.") for name, entry in keys.items()}
    # A host that is not loopback asks for keys, and these are read apart: for the check both must be there.
    host = {"host": gateway.pop("host")} if isinstance(gateway.get("host"), str) else {}
    settings = from_table(GatewaySettings, gateway, where=where, prefix="gateway.")
    config = from_table(Config, table, where=where)
    check_policy(config.routing.policy)
    try:
        return Settings(config, replace(settings, keys=known, **host))
    except ConfigError as error:
        raise ConfigError(f"{where}: gateway.{error}", field=f"gateway.{error.field}") from None


def _interpolated(value: Any, *, where: str, name: str) -> Any:
    """The same with every ${NAME} in a text replaced by the environment variable's value."""
    if isinstance(value, dict):
        return {
            key: _interpolated(item, where=where, name=f"{name}.{key}" if name else key) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_interpolated(item, where=where, name=name) for item in value]
    if not isinstance(value, str):
        return value

    def of(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(f"{where}: {name} names ${{{match[1]}}}, which the environment does not have", field=name)
        return found

    return _REFERENCE.sub(of, value)


def _at_least(name: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        upper = "" if high == float("inf") else f" up to {high:g}"
        raise ConfigError(f"{name} is {value!r}; accepted: from {low:g}{upper or ' on'}", field=name)
