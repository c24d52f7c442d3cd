"""A pair: two open engines and the threshold that was calibrated for them, if one was."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.resources import as_file, files

from glimprouter.config import PUBLISHED_THRESHOLD_NATS, Model, named_model
from glimprouter.engines import open_engine
from glimprouter.errors import ConfigError, PairError
from glimprouter.flow.engine import Engine
from glimprouter.router import Router

TINY_SMALL, TINY_LARGE, TINY_WEAK = "tiny-small", "tiny-large", "tiny-weak"
"""Names of the models that ship: the pair, and an earlier checkpoint of its small one."""

UNCALIBRATED = (
    f"no profile for this pair: the published threshold of {PUBLISHED_THRESHOLD_NATS} nats is used, which does not "
    "travel between pairs. Collect some answers with --trace FILE; `glimprouter trace summary FILE` then lists which "
    "threshold gives which large share: pass it with --threshold."
)


@dataclass(frozen=True, slots=True)
class Pair:
    """`threshold_nats` is None for a pair without a profile."""

    small: Engine
    large: Engine
    threshold_nats: float | None

    def router(self) -> Router:
        return Router(self.small, self.large, threshold_nats=self.threshold_nats)


@asynccontextmanager
async def open_pair(
    small: str | None = None,
    large: str | None = None,
    *,
    names: dict[str, str | Model] | None = None,
    parallel: int = 1,
    exact: bool = False,
) -> AsyncIterator[Pair]:
    """Open two models, closing both in the end. Without any, the tiny pair.

    `small` and `large` are a URL, a GGUF file, a name from `names`, or a model that ships. `parallel` is how many
    answers a local engine serves at once; `exact` trades its speed for reproducible arithmetic.
    Raises ModelError or PairError, with what to do.
    """
    if (small is None) != (large is None):
        given, missing = ("--small", "--large") if large is None else ("--large", "--small")
        raise PairError(
            f"{given} is given without {missing}; give both, or neither for the tiny pair", field=missing.strip("-")
        )
    specs = {"small": small or TINY_SMALL, "large": large or TINY_LARGE}
    async with AsyncExitStack() as stack:

        async def opened(side: str, spec: str) -> Engine:
            model = named_model(spec, names or {})
            if model.at[0] in (TINY_SMALL, TINY_LARGE, TINY_WEAK):
                file = stack.enter_context(as_file(files("glimprouter.models") / f"{model.at[0]}.gguf"))
                model = replace(model, at=(str(file),))
            engine = await open_engine(model, side=side, parallel=parallel, exact=exact)
            stack.push_async_callback(engine.close)
            return engine

        outcomes = await asyncio.gather(*(opened(*item) for item in specs.items()), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        first, second = (outcome for outcome in outcomes if not isinstance(outcome, BaseException))
        yield Pair(first, second, profile_threshold(specs["small"], specs["large"]))


def profile_threshold(small: str, large: str) -> float | None:
    """The calibrated threshold (nats) of a pair that ships, or None."""
    profiles = tomllib.loads((files("glimprouter.models") / "profiles.toml").read_text(encoding="utf-8"))
    for profile in profiles.get("profile", []):
        if (profile["small"], profile["large"]) == (small, large):
            value = profile["threshold_nats"]
            if not isinstance(value, float):
                raise ConfigError("profiles.toml: threshold_nats must be a number", field="threshold_nats")
            return value
    return None
