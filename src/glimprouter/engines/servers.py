"""Opens the engine at an address: finds out what kind of server answers there, and what it can do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder

from glimprouter.config import Model, Sampling
from glimprouter.engines.asking import (
    SLOW_STREAM,
    begins_anew,
    is_scaled,
    sglang_model,
    sglang_repeats_itself,
    streams,
    takes_seeds,
    vllm_ways,
)
from glimprouter.engines.dialects import Dialect, Exchange
from glimprouter.engines.dialects.llamacpp import LLAMACPP
from glimprouter.engines.dialects.openai import openai
from glimprouter.engines.dialects.sglang import sglang
from glimprouter.engines.dialects.vllm import vllm
from glimprouter.engines.http import KEY_VARIABLE, HttpEngine, Timeouts
from glimprouter.engines.pool import Pool
from glimprouter.engines.text_mode import Pieces
from glimprouter.engines.tokenizer_files import TokenizerFiles
from glimprouter.errors import EngineError, EngineTimeout, EngineUnavailable, ModelError
from glimprouter.flow.engine import Completion, EngineFacts, Message, Session, Token, Usage

DIALECTS = ("auto", "llamacpp", "vllm", "sglang", "openai")
BLOCK_TOKENS = 64
"""Of a host that cannot stream."""

_NO_STREAM = "{} does not stream: it is asked for blocks of {} tokens, and waits are longer"


class _Listed(Struct):
    id: str
    owned_by: str = ""
    max_model_len: int | None = None


class _List(Struct):
    data: list[_Listed]


_MODELS = Exchange("/v1/models", lambda: None, lambda data: Decoder(_List).decode(data).data)
_OWNERS = {"llamacpp": "llamacpp", "vllm": "vllm", "sglang": "sglang"}


async def open_server(
    url: str, model: Model, *, side: str, timeouts: Timeouts | None = None, shared: SharedFiles | None = None
) -> HttpEngine:
    """The engine at one address, once it has answered. Raises ModelError, naming `--{side}`, where it does not."""
    if model.dialect not in DIALECTS:
        raise ModelError(
            f"--{side}: dialect is {model.dialect!r}; accepted: {', '.join(DIALECTS)}", field=f"{side}.dialect"
        )
    key = os.environ.get(model.key_variable or KEY_VARIABLE[side])
    scout = HttpEngine(url, key=key, timeouts=timeouts)
    try:
        engine = await _Opening(scout, model, side, shared or SharedFiles(model, side)).engine()
        try:
            await engine.facts()
        except BaseException:
            await engine.close()
            raise
    except EngineError as error:
        raise ModelError(
            f"--{side} {url}: no server that can be used: {error}; give the address of one (http://host:port) that is "
            f"up, and its key, if it has one, in {model.key_variable or KEY_VARIABLE[side]}",
            field=side,
        ) from error
    finally:
        await scout.close()
    return engine


async def open_replicas(model: Model, *, side: str, timeouts: Timeouts | None = None) -> Pool:
    """The engine over all addresses of a model. One that is down now is used when it has come up and proved the same.

    Raises ModelError, naming `--{side}`, where none is up, and PairError where two serve different models.
    """
    for place in model.at:
        if not place.startswith(("http://", "https://")):
            raise ModelError(
                f"--{side}: {place} stands among addresses and is none; give http://host:port for each replica, or one "
                "file alone",
                field=side,
            )
    urls = [url.rstrip("/") for url in model.at]
    shared = SharedFiles(model, side)
    outcomes = await asyncio.gather(
        *(open_server(url, model, side=side, timeouts=timeouts, shared=shared) for url in urls), return_exceptions=True
    )
    opened = [outcome for outcome in outcomes if isinstance(outcome, HttpEngine)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    unreachable = [error for error in failures if isinstance(error.__cause__, EngineUnavailable | EngineTimeout)]
    if not opened or len(unreachable) < len(failures):
        for engine in opened:
            await engine.close()
        raise next((error for error in failures if error not in unreachable), failures[0])

    def later(url: str) -> LateServer:
        return LateServer(url, lambda: open_server(url, model, side=side, timeouts=timeouts, shared=shared))

    try:
        pool = Pool(
            [
                outcome if isinstance(outcome, HttpEngine) else later(url)
                for url, outcome in zip(urls, outcomes, strict=True)
            ]
        )
        await pool.facts()
    except BaseException:
        for engine in opened:
            await engine.close()
        raise
    return pool


class SharedFiles:
    """What replicas of one model have in common: the tokenizer's files, read once, and text mode's numbers, which must
    mean the same on each of them, for an answer goes on elsewhere from the numbers it has."""

    def __init__(self, model: Model, side: str) -> None:
        self._model = model
        self._side = side

    @cached_property
    def given(self) -> TokenizerFiles | None:
        return TokenizerFiles(Path(self._model.tokenizer), side=self._side) if self._model.tokenizer else None

    @cached_property
    def pieces(self) -> Pieces:
        return Pieces(self.given)


class LateServer:
    """A server that was down when the pair was opened: an engine as soon as it is up."""

    def __init__(self, url: str, open_: Callable[[], Awaitable[HttpEngine]]) -> None:
        self.name = url
        self._open = open_
        self._engine: HttpEngine | None = None

    async def _there(self) -> HttpEngine:
        if self._engine is None:
            try:
                self._engine = await self._open()
            except ModelError as error:
                raise EngineUnavailable(f"{self.name}: {error}", engine=self.name) from error
        return self._engine

    async def facts(self) -> EngineFacts:
        return await (await self._there()).facts()

    async def render(self, messages: Sequence[Message]) -> str:
        return await (await self._there()).render(messages)

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        return await (await self._there()).encode(text, special=special)

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        return await (await self._there()).encode_prompt(messages)

    async def decode(self, ids: Sequence[int]) -> str:
        return await (await self._there()).decode(ids)

    @asynccontextmanager
    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        top: int,
        usage: Usage,
        session: Session | None = None,
    ) -> AsyncIterator[AsyncIterator[Token]]:
        engine = await self._there()
        async with engine.generate(
            ids, sampling, max_tokens=max_tokens, top=top, usage=usage, session=session
        ) as tokens:
            yield tokens

    async def complete(self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, usage: Usage) -> Completion:
        return await (await self._there()).complete(ids, sampling, max_tokens=max_tokens, usage=usage)

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
        await (await self._there()).prefill(ids, session=session)

    def leave(self, session: Session) -> None:
        """Nothing is kept for an answer here."""

    async def close(self) -> None:
        """It is looked at anew when it is used again: it may be another server by then."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()


class _Opening:
    """One address on the way to an engine. `scout` asks; the engine that is returned has its own connections."""

    def __init__(self, scout: HttpEngine, model: Model, side: str, shared: SharedFiles) -> None:
        self._scout = scout
        self._shared = shared
        self._model = model
        self._side = side

    async def engine(self) -> HttpEngine:
        listed = await self._listed()
        kind = self._model.dialect
        if kind == "auto":
            kind = _OWNERS.get(listed.owned_by, "openai")
        if kind == "llamacpp":
            return self._made(LLAMACPP, None)
        if kind == "vllm":
            return await self._vllm(listed)
        if kind == "sglang":
            return await self._sglang(listed)
        return await self._openai(listed)

    async def _listed(self) -> _Listed:
        """The model asked for, or the first one that is served."""
        models = await self._scout.exchange(_MODELS)
        wanted = self._model.model
        found = next((one for one in models if one.id == wanted), None) if wanted else next(iter(models), None)
        if found is None:
            names = ", ".join(one.id for one in models) or "none"
            raise ModelError(f"--{self._side}: model is {wanted!r}; served there: {names}", field=f"{self._side}.model")
        return found

    def _made(self, dialect: Dialect, coder: Any, *, block_tokens: int = 0) -> HttpEngine:
        return HttpEngine(
            self._scout.url,
            key=self._scout.key,
            dialect=dialect,
            timeouts=self._scout.timeouts,
            coder=coder,
            thought_format="" if self._model.thought_format == "auto" else self._model.thought_format,
            block_tokens=block_tokens,
        )

    async def _vllm(self, listed: _Listed) -> HttpEngine:
        files = self._shared.given
        ways = await vllm_ways(self._scout, listed.id, has_files=files is not None)
        if not ways.ids:
            return await self._openai(listed)
        dialect = vllm(listed.id, listed.max_model_len or 0, priorities=ways.priorities, block_tokens=ways.block_tokens)
        return self._made(dialect, files)

    async def _sglang(self, listed: _Listed) -> HttpEngine:
        info = await sglang_model(self._scout)
        files = self._shared.given
        if files is None and info.tokenizer_path:
            files = _files_here(Path(info.tokenizer_path), self._side)
        if files is None:
            raise ModelError(
                f"--{self._side} {self._scout.url}: SGLang does not render a chat into ids for us; give the model's "
                "tokenizer files with --tokenizer FOLDER",
                field="tokenizer",
            )
        return await tried_sglang(self._scout, listed.id, listed.max_model_len or 0, lambda one: self._made(one, files))

    async def _openai(self, listed: _Listed) -> HttpEngine:
        files = self._shared.given
        how = (
            "prompts are sent as text, rendered with the tokenizer files given"
            if files is not None
            else "chats are sent as they are and continued from the assistant's turn; give the model's tokenizer files "
            "with --tokenizer FOLDER to have prompts rendered here"
        )
        warning = f"{self._scout.url} takes no ids: {how}. What a model wrote is read again as text at every hand-over"
        pieces = self._shared.pieces
        dialect = openai(listed.id, listed.max_model_len or 0, pieces, renders=files is not None, warnings=(warning,))
        engine = self._made(dialect, pieces)
        try:
            if not await streams(engine):
                engine.block_tokens = BLOCK_TOKENS
                engine.dialect = replace(dialect, warnings=(warning, _NO_STREAM.format(self._scout.url, BLOCK_TOKENS)))
            if files is None and await begins_anew(engine):
                raise ModelError(
                    f"--{self._side} {self._scout.url}: the host does not continue what the assistant has begun to "
                    "write, it begins anew; give the model's tokenizer files with --tokenizer FOLDER, if the host has "
                    "/v1/completions, or another host",
                    field=self._side,
                )
        finally:
            await engine.close()
        return self._made(engine.dialect, pieces, block_tokens=engine.block_tokens)


async def tried_sglang(
    scout: HttpEngine, name: str, context_tokens: int, made: Callable[[Dialect], HttpEngine]
) -> HttpEngine:
    """An engine in the dialect that fits the server's version and settings."""
    warnings = (SLOW_STREAM,) if await sglang_repeats_itself(scout) else ()
    engine = made(sglang(name, context_tokens, scaled=False))
    try:
        seeds = await takes_seeds(engine)
        engine.dialect = sglang(name, context_tokens, scaled=False, seeds=seeds)
        scaled = await is_scaled(engine)
    finally:
        await engine.close()
    return made(sglang(name, context_tokens, scaled=scaled, seeds=seeds, warnings=warnings))


def _files_here(folder: Path, side: str) -> TokenizerFiles | None:
    """The files the server itself reads, where it runs on this machine."""
    return TokenizerFiles(folder, side=side) if folder.is_dir() else None
