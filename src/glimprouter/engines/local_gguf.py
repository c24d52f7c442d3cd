"""A GGUF file, served by llama.cpp's own server in a child process of ours and spoken to over loopback."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from glimprouter.config import SURE_DRAFT
from glimprouter.engines.dialects import Dialect
from glimprouter.engines.dialects.llamacpp import LLAMACPP, SPECULATING
from glimprouter.engines.gguf_file import Scalar, read_metadata
from glimprouter.engines.http import HttpEngine, Timeouts
from glimprouter.engines.http_client import Reply
from glimprouter.engines.slots import Slots
from glimprouter.errors import EngineError, EngineUnavailable, ModelError
from glimprouter.flow.engine import Session

CONTEXT_TOKENS = 16_384
"""Per answer, where the model was trained for as much."""

TINY_BYTES = 64 * 2**20
"""Below this a second thread costs more than it does."""

START_S = 600.0
STOP_S = 2.0
ALL_THAT_FIT = -1

_CHILD = Path(__file__).with_name("local_gguf_child.py")


class LocalGguf(HttpEngine):
    """An engine whose server is ours: it starts with `start` and ends with `close`, or with this process."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        key: str,
        process: Process,
        parallel: int = 1,
        dialect: Dialect = LLAMACPP,
        timeouts: Timeouts | None = None,
        thought_format: str = "",
    ) -> None:
        super().__init__(url, name=name, key=key, dialect=dialect, timeouts=timeouts, thought_format=thought_format)
        self._process = process
        self._slots = Slots(parallel)

    @classmethod
    async def start(
        cls,
        path: Path,
        *,
        side: str = "small",
        parallel: int = 1,
        exact: bool = False,
        context_tokens: int = CONTEXT_TOKENS,
        threads: int | None = None,
        gpu_layers: int = ALL_THAT_FIT,
        timeouts: Timeouts | None = None,
        draft: Path | None = None,
        speculate: int = 0,
        thought_format: str = "",
    ) -> LocalGguf:
        """Serve a file. Raises ModelError, which names `--{side}`, where it cannot be served.

        `parallel` answers at once have `context_tokens` each, at most what the model was trained for. `exact` computes
        attention and keeps the cache in float32. Threads: one for a tiny model, else half of what this process may use.
        `draft` is a smaller model of the same vocabulary, which proposes `speculate` tokens at a time; it is loaded for
        this engine alone, and log-probabilities are not to be had then.
        """
        speculates = draft is not None and speculate > 0
        if draft is not None and speculates:
            _checked(draft, side)
        context = min(context_tokens, _trained_context(_checked(path, side)) or context_tokens)
        tiny = _is_tiny(path)
        key = secrets.token_urlsafe(24)
        settings = {
            "path": str(path),
            "name": path.stem,
            "key": key,
            "parent": os.getpid(),
            "parallel": parallel,
            "context_tokens": context,
            "threads": threads or (1 if tiny else max(1, _processors() // 2)),
            "gpu_layers": gpu_layers,
            "exact": exact,
            "warmup": not tiny,
            "draft": str(draft) if speculates else None,
            "speculate": speculate,
            "sure": SURE_DRAFT,
            "draft_threads": threads or (1 if draft is None or _is_tiny(draft) else max(1, _processors() // 2)),
        }
        process = Process(settings)
        try:
            url = await process.address()
            if url is None:
                raise ModelError(
                    f"--{side} {path}: llama.cpp could not load it: {process.first_error()}; "
                    "give another GGUF file, or fetch this one again",
                    field=side,
                )
            dialect = SPECULATING if speculates else LLAMACPP
            engine = cls(
                url,
                name=path.stem,
                key=key,
                process=process,
                parallel=parallel,
                dialect=dialect,
                timeouts=timeouts,
                thought_format=thought_format,
            )
            await engine.facts()
        except BaseException:
            await process.end()
            raise
        return engine

    async def request(
        self, path: str, body: dict[str, Any] | None, session: Session | None = None, *, stream: bool = False
    ) -> Reply:
        """Calls of one answer go to one slot, while there are enough of them."""
        if session is not None and body is not None:
            slot = self._slots.slot_of(session.id, body["prompt"])
            if slot is not None:
                body = body | {"id_slot": slot}
        return await super().request(path, body, session, stream=stream)

    def leave(self, session: Session) -> None:
        self._slots.leave(session.id)

    @property
    def pid(self) -> int:
        """The process that serves the model."""
        return self._process.pid

    def lost(self, error: BaseException | str) -> EngineError:
        code = self._process.exit_code()
        if code is None:
            return super().lost(error)
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        killed = code in (-signal.SIGKILL, -signal.SIGTERM)
        said = "" if killed else f": {self._process.last_line()}"
        return EngineUnavailable(f"{self.name}: its process ended {how}{said}", engine=self.name)

    async def close(self) -> None:
        await super().close()
        await self._process.end()


class Process:
    """The child. It gets its settings on standard input, never on the command line, where others could read the key."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        # -P: beside the script lies http.py, which is not the standard library's. A group of its own: Ctrl-C is for us.
        self._popen = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            process_group=0,
        )
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(settings).encode() + b"\n")
        self._popen.stdin.flush()
        self.pid = self._popen.pid

    async def address(self) -> str | None:
        """Where the server listens; None where it ended instead."""
        assert self._popen.stdout is not None
        async with asyncio.timeout(START_S):
            line = await asyncio.to_thread(self._popen.stdout.readline)
        return json.loads(line)["url"] if line else None

    def exit_code(self) -> int | None:
        """Negative: the signal it died of. A process dying right now is waited for, briefly."""
        try:
            return self._popen.wait(0.05)
        except subprocess.TimeoutExpired:
            return None

    def first_error(self) -> str:
        """Why it did not start: the first thing that llama.cpp calls an error, without time and level."""
        lines = self._printed()
        errors = [line.split(" E ", 1)[1].strip() for line in lines if " E " in line]
        told = [line for line in errors if "error" in line or "invalid" in line] or errors or lines[-1:]
        return told[0] if told else "it does not say why"

    def last_line(self) -> str:
        """Why it ended while it worked; earlier lines tell of requests that it refused."""
        return next(iter(self._printed()[-1:]), "it does not say why")

    def _printed(self) -> list[str]:
        if self._stderr.closed:
            return []
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").splitlines()

    async def end(self) -> None:
        """End it, at first politely. Does nothing the second time."""
        popen = self._popen
        if popen.poll() is None:
            popen.terminate()
        try:
            await asyncio.to_thread(popen.wait, STOP_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            await asyncio.to_thread(popen.wait)
        for pipe in (popen.stdin, popen.stdout, self._stderr):
            if pipe is not None:
                pipe.close()


def _checked(path: Path, side: str) -> dict[str, Scalar]:
    """The file's metadata, where it looks like a model that can chat."""
    if not path.exists():
        raise ModelError(f"--{side} {path}: no such file; give a GGUF file or the address of a server", field=side)
    if path.is_dir():
        raise ModelError(f"--{side} {path}: is a folder; give the GGUF file in it", field=side)
    try:
        metadata = read_metadata(path)
    except OSError as error:
        raise ModelError(f"--{side} {path}: cannot be read ({error.strerror})", field=side) from error
    except ValueError as error:
        raise ModelError(
            f"--{side} {path}: not a whole GGUF file: {error}; fetch it again, or convert the model with llama.cpp's "
            "convert_hf_to_gguf.py",
            field=side,
        ) from error
    if not metadata.get("tokenizer.chat_template"):
        # llama.cpp would silently take ChatML instead.
        raise ModelError(
            f"--{side} {path}: it has no chat template (tokenizer.chat_template); give an instruction-tuned model's "
            "file, or convert the model again with its chat_template.jinja beside it",
            field=side,
        )
    return metadata


def _is_tiny(path: Path) -> bool:
    return path.stat().st_size < TINY_BYTES


def _trained_context(metadata: dict[str, Scalar]) -> int:
    return int(metadata.get(f"{metadata.get('general.architecture')}.context_length", 0))


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
