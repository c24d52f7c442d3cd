"""A policy's own options: the fields of its dataclass, filled from `routing.params` and checked."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from glimprouter.config import Param, from_table
from glimprouter.errors import ConfigError

P = TypeVar("P")


@dataclasses.dataclass(frozen=True, slots=True)
class Within:
    """Both ends are allowed. Stands in an option's annotation: `accept: Annotated[float, Within(0, 9)] = 8.0`."""

    low: float
    high: float


def policy_from(kind: type[P], name: str, params: Mapping[str, Param]) -> P:
    """The policy with these options. Raises ConfigError for one that is unknown, missing, of a wrong type or range."""
    where = f"policy {name}"
    check_params(kind, name, params)
    missing = [
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.name not in params
    ]
    if missing:
        raise ConfigError(
            f"{where} has no {', '.join(missing)}: these are fitted to a pair beforehand, and this pair has none; give "
            f"them under [routing.params], or with --param {missing[0]}=VALUE",
            field=f"params.{missing[0]}",
        )
    return from_table(kind, dict(params), where=where, prefix="params.")


def check_params(kind: type[Any], name: str, params: Mapping[str, Param]) -> None:
    """Raises ConfigError for an option that is unknown, of a wrong type or out of range; some may still be missing."""
    where = f"policy {name}"
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    # A copy with every option optional: what is missing may be fitted to the pair.
    hints = typing.get_type_hints(kind)
    loose = dataclasses.make_dataclass(kind.__name__, [(field, hints[field], None) for field in fields])
    from_table(loose, dict(params), where=where, prefix="params.")
    for field, hint in typing.get_type_hints(kind, include_extras=True).items():
        for bounds in getattr(hint, "__metadata__", ()):
            if field in params and not bounds.low <= params[field] <= bounds.high:
                raise ConfigError(
                    f"{where}: params.{field} is {params[field]!r}; accepted: from {bounds.low:g} to {bounds.high:g}",
                    field=f"params.{field}",
                )


def described(name: str, policy: Any) -> str:
    """A policy's name with its numbers, and with what differs from the defaults, as the trace records them."""
    options = []
    for field in dataclasses.fields(policy):
        value = getattr(policy, field.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number or value != field.default:
            options.append(f"{field.name}={value:g}" if isinstance(value, float) else f"{field.name}={value}")
    return f"{name}({', '.join(options)})"
