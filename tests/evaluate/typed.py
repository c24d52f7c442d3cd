"""`glimprouter evaluate` as it is typed, on scripted engines."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from glimprouter.cli import evaluate_run
from glimprouter.cli.main import main
from glimprouter.pair import Pair
from tests.evaluate.world import engines


@pytest.fixture(autouse=True)
def scripted_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def open_pair(*args: Any, **kwargs: Any) -> AsyncIterator[Pair]:
        small, large = engines()
        yield Pair(small, large, 0.9)

    monkeypatch.setattr(evaluate_run, "open_pair", open_pair)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    return int(ended.value.code or 0)
