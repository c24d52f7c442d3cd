"""A folder of Hugging Face files, run in this process by transformers: exact log-probabilities of any model it knows.

One thread per engine reads and draws, a token of this call, a token of that; nothing is drawn that nobody asks for.
On a CPU this is an oracle rather than a fast engine. The path of GPUs (bfloat16, caches of full length, a compiled
pass for single tokens) follows transformers' documentation and has not been run where this was written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from glimprouter.config import Sampling
from glimprouter.engines.coding import Coding
from glimprouter.engines.http import FINGERPRINT_TEXT
from glimprouter.engines.local_hf_call import Call, Writing
from glimprouter.engines.local_hf_network import Network, Shelf
from glimprouter.engines.local_hf_text import Spelling, Vocabulary
from glimprouter.errors import ContextError, EngineProtocolError, EngineUnavailable, ModelError
from glimprouter.flow.engine import EngineFacts, Message, Session, Token, Usage

T = TypeVar("T")

CONTEXT_TOKENS = 16_384
"""Per answer, where the model was trained for as much."""

MOST_PLACES = 4
"""Caches kept, and so calls that take turns; further calls wait for one of them to end. `parallel` allows more."""


class LocalHf:
    """An engine in this process: it starts with `open` and ends with `close`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        shelf: Shelf,
        worker: ThreadPoolExecutor,
        *,
        name: str,
        places: int,
        speculate: int,
    ) -> None:
        """Use `open`."""
        self.name = name
        self._vocabulary = vocabulary
        self._coding = Coding(vocabulary)
        self._shelf = shelf
        self._worker: ThreadPoolExecutor | None = worker
        self._turns = asyncio.Semaphore(places)
        self._speculate = speculate
        network = shelf.network
        self._context_tokens, self._vocabulary_size = network.context_tokens, network.vocabulary_size
        self._facts: EngineFacts | None = None
        self.thought_format = ""

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        side: str = "small",
        parallel: int = 1,
        exact: bool = False,
        context_tokens: int = CONTEXT_TOKENS,
        device: str = "auto",
        draft: Path | None = None,
        speculate: int = 0,
        static: bool | None = None,
        thought_format: str = "",
    ) -> LocalHf:
        """Load a folder. Raises ModelError, which names `--{side}`, where that cannot be done.

        `exact`: float32 on a GPU too. `draft` is a smaller model of the same vocabulary, which proposes `speculate`
        tokens at a time; it is loaded for this engine alone. `static`: caches of full length (None: on a GPU).
        """
        _check_installed(folder, side)
        vocabulary = Vocabulary(folder, side=side)
        worker = ThreadPoolExecutor(1, thread_name_prefix=f"glimprouter-{folder.name}")

        def load(path: Path) -> Network:
            dtype = "float32" if exact else "auto"
            return Network.load(path, context_tokens=context_tokens, device=device, dtype=dtype, static=static)

        def load_both() -> tuple[Network, Network | None]:
            # The draft first: the threads are set for what is loaded last.
            second = load(draft) if draft is not None and speculate else None
            return load(folder), second

        try:
            network, second = await asyncio.get_running_loop().run_in_executor(worker, load_both)
        except Exception as error:  # what a damaged or unknown folder raises is up to transformers
            worker.shutdown(wait=False)
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(
                f"--{side} {folder}: transformers could not load it: {said}; give the folder of a causal language "
                "model with config.json and its safetensors files, or fetch it again",
                field=side,
            ) from error
        except BaseException:
            worker.shutdown(wait=False)
            raise
        if second is not None and not (network.can_crop and second.can_crop):
            worker.shutdown(wait=False)
            raise ModelError(
                f"--{side} {folder}: it cannot speculate, for layers that keep a running state cannot take a token "
                "back; leave out --speculate",
                field="speculate",
            )
        places = max(parallel, 2 if network.static else MOST_PLACES)
        shelf = Shelf(network, second, most_places=places)
        engine = cls(vocabulary, shelf, worker, name=folder.name, places=places, speculate=speculate)
        engine.thought_format = thought_format
        return engine

    async def facts(self) -> EngineFacts:
        if self._facts is None:
            ids = await self.encode(FINGERPRINT_TEXT)
            self._facts = EngineFacts(
                model=self.name,
                context_tokens=self._context_tokens,
                vocabulary_size=self._vocabulary_size,
                vocabulary=blake2b(repr(ids).encode(), digest_size=8).hexdigest(),
                chat_template=self._vocabulary.template,
                most_top=self._vocabulary_size,
                thought_format=self.thought_format,
            )
        return self._facts

    async def render(self, messages: Sequence[Message]) -> str:
        return await self._coding.render(messages)

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        return await self._coding.encode(text, special=special)

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        return await self._coding.encode_prompt(messages)

    async def decode(self, ids: Sequence[int]) -> str:
        return await self._coding.decode(ids)

    @asynccontextmanager
    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        top: int,
        usage: Usage,
        session: Session | None = None,  # noqa: ARG002
    ) -> AsyncIterator[AsyncIterator[Token]]:
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; at least 1")
        self._check(ids)
        writing = Writing(
            self._shelf,
            ids,
            sampling,
            max_tokens=max_tokens,
            top=top,
            spelling=Spelling(self._vocabulary),
            speculate=self._speculate,
            usage=usage,
        )
        async with self._begun(writing):
            usage.requests += 1
            yield _Stream(self, writing)

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:  # noqa: ARG002
        self._check(ids)
        call = Call(self._shelf, ids, Usage())
        async with self._begun(call):
            while not await self.run(call.read_chunk):
                pass

    def leave(self, session: Session) -> None:
        """Nothing is kept for an answer here."""

    async def close(self) -> None:
        """End the thread and let go of the model; open streams end with EngineUnavailable."""
        worker, self._worker = self._worker, None
        if worker is not None:
            del self._shelf
            await asyncio.to_thread(worker.shutdown)

    @asynccontextmanager
    async def _begun(self, call: Call) -> AsyncIterator[None]:
        """A call in its turn. The thread takes one job after the other, so that it ends after all it was asked."""
        async with self._turns:
            try:
                await self.run(call.begin)
                yield
            finally:
                if self._worker is not None:
                    self._worker.submit(call.end)

    async def run(self, job: Callable[[], T]) -> T:
        """Have the engine's thread do something; a job that nobody waits for any more is not begun."""
        if self._worker is None:
            raise self._closed()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, _without_gradients, job)
        except RuntimeError as error:  # all that torch raises: no memory left, a device that failed
            raise EngineProtocolError(f"{self.name}: {error}", engine=self.name) from error

    def _closed(self) -> EngineUnavailable:
        return EngineUnavailable(f"{self.name}: it is closed", engine=self.name)

    def _check(self, ids: Sequence[int]) -> None:
        """An id that the model lacks would be a fault of the device, which no engine survives."""
        if self._worker is None:
            raise self._closed()
        if not ids:
            raise ValueError("an empty prefix; at least one token")
        if len(ids) >= self._context_tokens:
            raise ContextError(
                f"{self.name}: the prompt has {len(ids)} tokens, the context holds {self._context_tokens}; "
                "shorten it or give the engine a larger context",
                field="question",
            )
        if not 0 <= min(ids) <= max(ids) < self._vocabulary_size:
            wrong = next(id_ for id_ in ids if not 0 <= id_ < self._vocabulary_size)
            raise EngineProtocolError(
                f"{self.name}: id {wrong} is outside the vocabulary of {self._vocabulary_size}", engine=self.name
            )


class _Stream:
    def __init__(self, engine: LocalHf, writing: Writing) -> None:
        self._engine = engine
        self._writing = writing
        self._ready: deque[Token] = deque()
        self._finished = False

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        while not self._ready:
            if self._finished:
                raise StopAsyncIteration
            self._ready += await self._engine.run(self._writing.advance)
        token = self._ready.popleft()
        self._finished = token.finish is not None
        return token


def _without_gradients(job: Callable[[], T]) -> T:
    import torch

    with torch.no_grad():
        return job()


def _check_installed(folder: Path, side: str) -> None:
    missing = [package for package in ("torch", "transformers", "jinja2") if find_spec(package) is None]
    if missing:
        raise ModelError(
            f"--{side} {folder}: a Hugging Face folder is run with transformers; {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install 'glimprouter[hf]', or give a GGUF file",
            field=side,
        )
