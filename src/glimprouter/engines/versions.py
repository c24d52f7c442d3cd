"""Which version of its program a server runs, where it tells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.json import Decoder

from glimprouter.engines.dialects import Exchange
from glimprouter.errors import EngineError, InputError
from glimprouter.flow.engine import Engine

if TYPE_CHECKING:
    from glimprouter.engines.http import HttpEngine


class _Version(Struct):
    version: str


class _Props(Struct):
    build_info: str


_EXCHANGES = {
    "vllm": ("vLLM", Exchange("/version", lambda: None, lambda data: Decoder(_Version).decode(data).version)),
    "sglang": (
        "SGLang",
        Exchange("/get_server_info", lambda: None, lambda data: Decoder(_Version).decode(data).version),
    ),
    "llamacpp": ("llama.cpp", Exchange("/props", lambda: None, lambda data: Decoder(_Props).decode(data).build_info)),
}


async def version_of(engine: Engine) -> str:
    """Program and version, as in `vLLM 0.32.0`; empty where nobody tells."""
    if getattr(engine, "dialect", None) is None:
        return ""
    server: HttpEngine = engine  # type: ignore[assignment]
    program, exchange = _EXCHANGES.get(server.dialect.name, ("", None))
    if exchange is None:
        return ""
    try:
        said = await server.exchange(exchange)
    except (EngineError, InputError):
        return program
    told = re.fullmatch(r"[\w.+ -]{1,80}", said) and "unknown" not in said
    return f"{program} {said}" if told else program
