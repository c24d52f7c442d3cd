"""Profiles: what a calibration found, as a TOML file that `--profile` takes. Of one pair, and refused for another."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from glimprouter.calibrate.curve import Point
from glimprouter.calibrate.fingerprint import Model, fingerprint
from glimprouter.calibrate.job import Result
from glimprouter.config import Routing, Sampling
from glimprouter.errors import ConfigError
from glimprouter.flow.prior import Calibrated
from glimprouter.flow.signals import ClassScale
from glimprouter.pair import Pair

VERSION = 1


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what the threshold was found. It moves with each of them."""

    questions: int
    temperature: float
    top_p: float
    glimpse_top: int
    min_step_tokens: int
    max_step_tokens: int


@dataclass(frozen=True, slots=True)
class Row:
    """A point of the curve; figures that were not measured are left out of the file."""

    threshold: float
    step_share: float
    token_share: float
    accuracy: float | None = None
    latency_ratio: float | None = None
    cost_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile's file. `quantiles` are of the signal, at even shares; `classes` of entropy, per class of token."""

    version: int
    signal: str
    threshold: float
    aim: str
    mean_steps: float
    quantiles: tuple[float, ...]
    small: Model
    large: Model
    conditions: Conditions
    families: dict[str, float] = field(default_factory=dict)
    classes: dict[str, tuple[float, ...]] = field(default_factory=dict)
    curve: tuple[Row, ...] = ()

    def calibrated(self, family: str | None = None) -> Calibrated:
        """What a router takes. Raises ConfigError for a family that was not calibrated."""
        if family is not None and family not in self.families:
            raise ConfigError(
                f"--profile-family is {family!r}; accepted: {', '.join(self.families) or 'none, it was made without'}",
                field="profile_family",
            )
        threshold = self.threshold if family is None else self.families[family]
        classes = {name: grid for name, grid in self.classes.items() if name != "every"}
        scale = ClassScale(self.classes["every"], classes) if self.classes else None
        return Calibrated(threshold, self.signal, self.quantiles, self.mean_steps, scale)


def profile_of(
    result: Result, families: dict[str, float], small: Model, large: Model, *, routing: Routing, sampling: Sampling
) -> Profile:
    known, chosen = result.calibrated, result.chosen
    assert chosen is not None, "there is a threshold to write"
    scale = known.scale
    return Profile(
        VERSION,
        known.signal,
        known.threshold,
        str(result.aim),
        round(known.mean_steps, 3),
        _short(known.quantiles),
        small,
        large,
        Conditions(
            chosen.questions,
            sampling.temperature,
            sampling.top_p,
            routing.glimpse_top,
            routing.min_step_tokens,
            routing.max_step_tokens,
        ),
        families,
        {"every": _short(scale.every), **{name: _short(grid) for name, grid in scale.classes.items()}} if scale else {},
        tuple(_row(point) for point in result.points if math.isfinite(point.threshold)),
    )


def _short(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)


def _row(point: Point) -> Row:
    def known(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 4)

    return Row(
        point.threshold,
        round(point.step_share.value, 4),
        round(point.token_share.value, 4),
        known(point.accuracy.value),
        known(point.latency_ratio.value),
        known(point.cost_ratio.value),
    )


def write_profile(path: Path, profile: Profile) -> None:
    """Raises ConfigError where the file cannot be written."""
    try:
        path.write_text(to_toml(profile), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--write {path}: cannot be written ({error.strerror}); give a file in a folder that is yours",
            field="write",
        ) from error


def to_toml(profile: Profile) -> str:
    """Plain keys first, then tables, then the curve."""
    table: dict[str, Any] = msgspec.to_builtins(profile)
    lines = ["# Made by: glimprouter calibrate. Use it with --profile; `threshold` is what routes."]
    lines += [_line(key, value) for key, value in table.items() if not isinstance(value, dict) and key != "curve"]
    for name, value in table.items():
        if isinstance(value, dict) and value:
            lines += ["", f"[{name}]", *(_line(key, one) for key, one in value.items())]
    for row in table["curve"]:
        lines += ["", "[[curve]]", *(_line(key, one) for key, one in row.items() if one is not None)]
    return "\n".join([*lines, ""])


def _line(key: str, value: object) -> str:
    """Strings, numbers and lists are written as in JSON, which TOML reads alike."""
    bare = (
        key if key.replace("_", "").replace("-", "").isascii() and key.replace("_", "").isalnum() else json.dumps(key)
    )
    return f"{bare} = {json.dumps(value, ensure_ascii=False)}"


def read_profile(path: Path) -> Profile:
    """Raises ConfigError for a file that is no profile of this version."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        profile = msgspec.convert(table, Profile)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"--profile {path}: cannot be used ({error}); make one with `glimprouter calibrate --write FILE`",
            field="profile",
        ) from error
    if profile.version != VERSION:
        raise ConfigError(
            f"--profile {path}: has version {profile.version}, this program reads {VERSION}; calibrate anew",
            field="profile",
        )
    return profile


async def with_profile(pair: Pair, path: Path, *, family: str | None = None, force: bool = False) -> Pair:
    """The pair with what its profile says. Raises ConfigError for the profile of another pair, unless forced."""
    profile = read_profile(path)
    known = profile.calibrated(family)
    if not force:
        for side, then, engine in (("small", profile.small, pair.small), ("large", profile.large, pair.large)):
            found = then.differences(await fingerprint(engine))
            if found:
                raise ConfigError(
                    f"--profile {path}: was made for another {side} model, {then.name} ({'; '.join(found)}); "
                    "thresholds do not travel: calibrate this pair, or force it with --force-profile",
                    field="profile",
                )
    threshold_nats = known.threshold if known.signal == "entropy" else None
    return replace(pair, threshold_nats=threshold_nats, calibrated=known)
