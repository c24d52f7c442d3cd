"""Two vLLM servers on the tiny pair for the whole session, and the pair on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

from glimprouter.pair import TINY_LARGE, TINY_SMALL, Pair, open_pair
from tests.vllm.server import VllmServer, serving

CONTEXT_TOKENS = 2048
MODELS = Path(str(files("glimprouter.models")))


@pytest.fixture(scope="session")
def vllm_urls() -> Iterator[list[str]]:
    """Addresses of tiny-small and tiny-large."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with serving(*((MODELS / name, name, CONTEXT_TOKENS) for name in (TINY_SMALL, TINY_LARGE))) as urls:
        yield urls


@pytest.fixture
async def vllm_pair(vllm_urls: list[str]) -> AsyncIterator[Pair]:
    async with open_pair(*vllm_urls) as pair:
        yield pair


@pytest.fixture
def lone_server() -> Iterator[VllmServer]:
    """A server of a test's own, which the test may kill."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    import sys

    server = VllmServer(MODELS / TINY_SMALL, name=TINY_SMALL, context_tokens=CONTEXT_TOKENS, python=sys.executable)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def hf_pair() -> AsyncIterator[Pair]:
    """The same models run by transformers in this process."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    async with open_pair(str(MODELS / TINY_SMALL), str(MODELS / TINY_LARGE)) as pair:
        yield pair
        await asyncio.sleep(0)
