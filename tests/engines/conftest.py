"""Engines over models whose every probability is known; one server process per model for the whole session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from glimprouter.engines.http import HttpEngine
from glimprouter.engines.local_gguf import LocalGguf
from tests.engines.bigram_gguf import Table, write_bigram_gguf
from tests.engines.bigram_hf import write_bigram_hf

if TYPE_CHECKING:
    from glimprouter.engines.local_hf import LocalHf


class Servers:
    """Served models by their table and options. Their processes live on between tests, connections do not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._engines: dict[str, LocalGguf] = {}
        self._addressed: list[HttpEngine] = []

    async def serve(self, table: Table, *, parallel: int = 1, **options: Any) -> LocalGguf:
        name = repr((table, parallel, options))
        if name not in self._engines:
            path = write_bigram_gguf(self._folder / f"bigram-{len(self._engines)}.gguf", table, **options)
            self._engines[name] = await LocalGguf.start(path, parallel=parallel, exact=True)
        return self._engines[name]

    def address(self, server: LocalGguf) -> HttpEngine:
        """Another engine on the same server."""
        self._addressed.append(HttpEngine(server.url, key=server.key))
        return self._addressed[-1]

    async def hang_up(self) -> None:
        for engine in (*self._engines.values(), *self._addressed):
            await HttpEngine.close(engine)
        self._addressed.clear()

    async def close(self) -> None:
        for engine in self._engines.values():
            await engine.close()


@pytest.fixture(scope="session")
def session_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("models"))
    yield made
    asyncio.run(made.close())


@pytest.fixture
async def servers(session_servers: Servers) -> AsyncIterator[Servers]:
    yield session_servers
    await session_servers.hang_up()


class Folders:
    """Models by their table, run by transformers; a test that asks for one is skipped where that is not installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: list[LocalHf] = []

    async def open(
        self, table: Table, *, draft: Table | None = None, context_tokens: int = 512, **options: Any
    ) -> LocalHf:
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        from glimprouter.engines.local_hf import LocalHf

        at = self._folder / str(len(self._opened)) / "bigram"
        path = write_bigram_hf(at, table, context_tokens=context_tokens)
        second = write_bigram_hf(at / "draft", draft, context_tokens=context_tokens) if draft is not None else None
        self._opened.append(await LocalHf.open(path, draft=second, **options))
        return self._opened[-1]

    async def close(self) -> None:
        for engine in self._opened:
            await engine.close()


@pytest.fixture
async def folders(tmp_path: Path) -> AsyncIterator[Folders]:
    made = Folders(tmp_path)
    yield made
    await made.close()
