"""Options of policies and strategies that were fitted to pairs that ship: models/fitted.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePath

from glimprouter.config import Param


@cache
def _pairs() -> dict[tuple[str, str], dict[str, dict[str, Param]]]:
    table = tomllib.loads((files("glimprouter.models") / "fitted.toml").read_text(encoding="utf-8"))
    return {(pair["small"], pair["large"]): pair["methods"] for pair in table.get("pair", [])}


def fitted_params(method: str, small: str, large: str) -> Mapping[str, Param]:
    """The options of a policy or strategy for two models by name; none for a pair that nobody has fitted them to."""
    return _pairs().get((_bare(small), _bare(large)), {}).get(method, {})


def _bare(model: str) -> str:
    return PurePath(model).name.removesuffix(".gguf")
