"""Engines over models whose every probability is known; one server process per model for the whole session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from glimprouter.config import Model, model_at
from glimprouter.engines.dialects.openai import openai
from glimprouter.engines.dialects.sglang import sglang
from glimprouter.engines.http import HttpEngine
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.engines.servers import open_server
from glimprouter.engines.text_mode import Pieces
from tests.engines.bigram_gguf import Table, chain, write_bigram_gguf
from tests.engines.bigram_hf import write_bigram_hf
from tests.engines.fake_model import Bigram, BigramCoder, serving
from tests.engines.fake_openai import openai_app
from tests.engines.fake_sglang import sglang_app
from tests.engines.fake_vllm import VllmHost

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


class Fakes:
    """Fake servers of a bigram model, and engines on them. All end with the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def serve(self, app: web.Application) -> str:
        return await self._stack.enter_async_context(serving(app))

    async def vllm(self, host: Bigram | VllmHost, **settings: Any) -> HttpEngine:
        """Found by asking."""
        app = (VllmHost(host) if isinstance(host, Bigram) else host).app()
        model = Model((await self.serve(app),), **settings)
        return self.kept(await open_server(model.at[0], model, side="small"))

    async def sglang(self, model: Bigram, *, scaled: bool = False, **options: Any) -> HttpEngine:
        url = await self.serve(sglang_app(model, scaled=scaled, **options))
        dialect = sglang("fake", model.context_tokens, scaled=scaled)
        return self.kept(HttpEngine(url, dialect=dialect, coder=BigramCoder(model)))

    async def openai(self, model: Bigram, **options: Any) -> HttpEngine:
        """With prompts rendered on our side."""
        pieces = Pieces(BigramCoder(model))
        dialect = openai("fake", model.context_tokens, pieces, renders=True, warnings=())
        return self.kept(HttpEngine(await self.serve(openai_app(model, **options)), dialect=dialect, coder=pieces))

    async def at(self, url: str) -> HttpEngine:
        """No fake, but closed like one."""
        return self.kept(await open_server(url, model_at(url), side="small"))

    def kept(self, engine: HttpEngine) -> HttpEngine:
        self._stack.push_async_callback(engine.close)
        return engine


@pytest.fixture
async def fakes() -> AsyncIterator[Fakes]:
    async with AsyncExitStack() as stack:
        yield Fakes(stack)


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


@pytest.fixture(scope="session")
def real_vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM server on the contract's model, started when first asked for."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    from tests.engines.test_contract import CONTEXT_TOKENS, STORY_PIECES
    from tests.vllm.server import serving as serving_vllm

    folder = write_bigram_hf(
        tmp_path_factory.mktemp("vllm") / "bigram", chain(*STORY_PIECES), context_tokens=CONTEXT_TOKENS
    )
    with serving_vllm((folder, "bigram", CONTEXT_TOKENS)) as urls:
        yield urls[0]
