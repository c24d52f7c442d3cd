"""Suites by name."""

from __future__ import annotations

from pathlib import Path

from glimprouter.errors import ConfigError
from glimprouter.evaluate.suites.gym import PREFIX, GymSuite, TinySuite
from glimprouter.evaluate.suites.published import PUBLISHED
from glimprouter.evaluate.suites.suite import Suite

NAMES = ("tiny", *(suite.name for suite in PUBLISHED), f"{PREFIX}TASK")


def is_suite(name: str) -> bool:
    return name in NAMES[:-1] or (name.startswith(PREFIX) and len(name) > len(PREFIX))


def suite_of(name: str, *, data: Path | None = None, seed: int = 0) -> Suite:
    """Raises ConfigError for a name that none has, and for a file given to a suite that makes its own questions."""
    for suite in PUBLISHED:
        if suite.name == name:
            return suite.of_file(data, seed)
    if not is_suite(name):
        raise ConfigError(f"no suite is named {name!r}; accepted: {', '.join(NAMES)}", field="suite")
    if data is not None:
        raise ConfigError(f"--data gives a file, but {name} makes its own questions; leave it out", field="data")
    return TinySuite() if name == "tiny" else GymSuite(name.removeprefix(PREFIX))


def known_suites() -> tuple[Suite, ...]:
    """All that have a fixed name."""
    return (TinySuite(), *PUBLISHED)
