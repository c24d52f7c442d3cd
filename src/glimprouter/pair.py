"""A pair: two open engines and the threshold that was calibrated for them, if one was."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from glimprouter.config import PUBLISHED_THRESHOLD_NATS, Model, Routing, Side, named_model
from glimprouter.engines import open_engine
from glimprouter.engines.findings import Finding
from glimprouter.errors import ConfigError, PairError
from glimprouter.flow.engine import Engine
from glimprouter.flow.prior import Calibrated
from glimprouter.flow.reward import RewardEngine
from glimprouter.policies import NEED_LOGPROBS
from glimprouter.router import Router

TINY_SMALL, TINY_LARGE, TINY_WEAK = "tiny-small", "tiny-large", "tiny-weak"
"""Names of the models that ship: the pair, and an earlier checkpoint of its small one."""

SHIPPED = frozenset({TINY_SMALL, TINY_LARGE, TINY_WEAK})

UNCALIBRATED = (
    f"no profile for this pair: the published threshold of {PUBLISHED_THRESHOLD_NATS} nats is used, which does not "
    "travel between pairs. `glimprouter calibrate --prompts FILE --write PROFILE` finds this pair's own: pass it with "
    "--profile. (Or collect answers with --trace FILE: `glimprouter trace summary FILE` lists which threshold gives "
    "which large share; pass one with --threshold.)"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """`threshold_nats` is None for a pair without a profile."""

    small: Engine
    large: Engine
    threshold_nats: float | None
    findings: tuple[Finding, ...] = ()
    """What a look at both engines gave to be warned of; empty for the pair that ships."""
    reward: RewardEngine | None = None
    """A process reward model, where one was named."""

    calibrated: Calibrated | None = None
    """What a profile holds, where one was given."""

    def router(self) -> Router:
        return Router(
            self.small, self.large, reward=self.reward, threshold_nats=self.threshold_nats, calibrated=self.calibrated
        )


@asynccontextmanager
async def open_pair(
    small: str | None = None,
    large: str | None = None,
    *,
    names: dict[str, str | Model] | None = None,
    parallel: int = 1,
    exact: bool = False,
    speculate: int = 0,
    reward: str | None = None,
    routing: Routing | None = None,
) -> AsyncIterator[Pair]:
    """Open two models, closing both in the end. Without any, the tiny pair.

    `small` and `large` are a URL, a GGUF file, a Hugging Face folder, a name from `names`, or a model that ships.
    `parallel` is how many answers a local engine serves at once; `exact` trades its speed for reproducible arithmetic.
    `speculate`: the large model has the small one propose so many tokens at a time, where its own settings do not say;
    both run here then. `reward` is the address of a process reward model.
    Both are looked at before they are used, for what `routing` will ask of them.
    Raises ModelError or PairError, with what to do.
    """
    async with (
        open_sides(small, large, names=names, parallel=parallel, exact=exact, speculate=speculate) as (
            models,
            outcomes,
        ),
        _reward_model(reward) as reward_model,
    ):
        for outcome in outcomes.values():
            if isinstance(outcome, Exception):
                raise outcome
        first, second = (outcome for outcome in outcomes.values() if not isinstance(outcome, Exception))
        if models["large"].speculate and (await first.facts()).vocabulary != (await second.facts()).vocabulary:
            raise PairError(
                f"--speculate {models['large'].speculate}: the models number their tokens differently, so that the "
                "small one can propose none to the large one; leave it out",
                field="speculate",
            )
        pair = Pair(first, second, profile_threshold(small or TINY_SMALL, large or TINY_LARGE), reward=reward_model)
        strangers = (small, large) != (None, None) and not {small, large} <= SHIPPED
        yield replace(pair, findings=await _screened(pair, routing or Routing())) if strangers else pair


@asynccontextmanager
async def _reward_model(url: str | None) -> AsyncIterator[RewardEngine | None]:
    if url is None:
        yield None
        return
    from glimprouter.engines.reward import HttpReward  # few ask one

    engine = HttpReward(url)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def open_sides(
    small: str | None = None,
    large: str | None = None,
    *,
    names: dict[str, str | Model] | None = None,
    parallel: int = 1,
    exact: bool = False,
    speculate: int = 0,
) -> AsyncIterator[tuple[dict[Side, Model], dict[Side, Engine | Exception]]]:
    """Two models as `open_pair` opens them, or why one could not be, without a look at what they can do."""
    if (small is None) != (large is None):
        given, missing = ("--small", "--large") if large is None else ("--large", "--small")
        raise PairError(
            f"{given} is given without {missing}; give both, or neither for the tiny pair", field=missing.strip("-")
        )
    specs: dict[Side, str] = {"small": small or TINY_SMALL, "large": large or TINY_LARGE}
    async with AsyncExitStack() as stack:

        def placed(spec: str) -> Model:
            model = named_model(spec, names or {})
            if model.at[0] not in SHIPPED:
                return model
            file = stack.enter_context(as_file(files("glimprouter.models") / f"{model.at[0]}.gguf"))
            return replace(model, at=(str(file),))

        models = {side: placed(spec) for side, spec in specs.items()}
        models["large"] = replace(models["large"], speculate=models["large"].speculate or speculate)
        draft = draft_for(models["large"], models["small"])

        async def opened(side: Side, model: Model) -> Engine:
            second = draft if side == "large" else None
            engine = await open_engine(model, side=side, parallel=parallel, exact=exact, draft=second)
            stack.push_async_callback(engine.close)
            return engine

        outcomes = await asyncio.gather(*(opened(*item) for item in models.items()), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                raise outcome
        yield models, dict(zip(models, outcomes, strict=True))  # type: ignore[arg-type]


async def _screened(pair: Pair, routing: Routing) -> tuple[Finding, ...]:
    """What to be warned of. Raises PairError, with the finding's own words, for an engine that cannot do its part."""
    from glimprouter.engines.probe import screen  # the pair that ships is not looked at, and should not pay for it

    glimpses = routing.policy in NEED_LOGPROBS
    both = await asyncio.gather(
        screen(pair.small, "small", top=routing.glimpse_top, glimpses=glimpses), screen(pair.large, "large", top=0)
    )
    findings = (*both[0], *both[1])
    for finding in findings:
        if finding.level == "fail":
            raise PairError(f"--{finding.side} {finding.sentence}", field=finding.side)
    return findings


def draft_for(large: Model, small: Model) -> Path | None:
    """The file or folder of the small model, where it proposes tokens to the large one.

    Raises PairError where it should and cannot: both run in an engine of ours, and in one of the same kind.
    """
    if small.speculate:
        raise PairError(
            f"--small {small.at[0]}: speculate is {small.speculate}, but there is no smaller model to propose tokens; "
            "set it for the large model",
            field="speculate",
        )
    if not large.speculate:
        return None
    asked = f"--speculate {large.speculate}"
    for side, place in (("large", large.at[0]), ("small", small.at[0])):
        if place.startswith(("http://", "https://")):
            raise PairError(
                f"{asked}: --{side} {place} is a server, which must speculate by itself (vLLM: start it with "
                "--speculative-config, llama.cpp: with --model-draft); leave --speculate out",
                field="speculate",
            )
    if Path(large.at[0]).is_dir() != Path(small.at[0]).is_dir():
        raise PairError(
            f"{asked}: --small {small.at[0]} and --large {large.at[0]} are of two kinds; give two GGUF files or two "
            "Hugging Face folders",
            field="speculate",
        )
    return Path(small.at[0])


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
