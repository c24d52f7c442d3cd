"""Starts vLLM's server on a folder with a model, on loopback, and stops it. For tests and benchmarks."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

START_S = 280.0
"""20 on a quiet machine."""
STOP_S = 15.0
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
FLAGS = (
    *("--enforce-eager", "--dtype", "float32", "--block-size", "32", "--enable-prefix-caching"),
    *("--enable-prompt-tokens-details", "--max-logprobs", "20", "--distributed-executor-backend", "uni"),
    *("--kv-cache-memory-bytes", "128M", "--disable-log-stats"),
)


class VllmServer:
    """One server process. `url` is its address once `wait` has returned."""

    def __init__(
        self,
        model: Path,
        *,
        name: str,
        context_tokens: int,
        python: str,
        flags: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # vLLM leaves files behind in what it takes for the folder of temporary ones.
        self._folder = tempfile.TemporaryDirectory(prefix=f"vllm-{name}-")
        self._log = Path(self._folder.name, "log").open("wb")  # noqa: SIM115 - closed by `stop`
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--max-model-len", str(context_tokens), *FLAGS, *flags]
        self.process = subprocess.Popen(
            command,
            env=os.environ | ENVIRONMENT | {"TMPDIR": self._folder.name} | (environment or {}),
            stdout=self._log,
            stderr=self._log,
            preexec_fn=_die_with_parent,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Until it answers. Raises RuntimeError, with the end of its log, where it does not."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
            else:
                return
        said = self.last_words()
        self.stop()
        raise RuntimeError(f"vLLM did not start:\n{said}")

    def last_words(self) -> str:
        """The end of its log."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")[-4000:]

    def stop(self) -> None:
        """End the process, by force if it takes long; what it has written is gone then. May be called twice."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        # Its engine runs in a process beside it, which outlives a server that was killed.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._log.close()
        self._folder.cleanup()


@contextmanager
def serving(*models: tuple[Path, str, int], python: str = sys.executable) -> Iterator[list[str]]:
    """The addresses of servers for (folder, name, context tokens) each, started side by side.

    One that has died by itself meanwhile is an error, which shows the end of its log.
    """
    servers = [VllmServer(path, name=name, context_tokens=tokens, python=python) for path, name, tokens in models]
    try:
        for server in servers:
            server.wait()
        yield [server.url for server in servers]
        for server in servers:
            if server.process.poll() is not None:
                raise RuntimeError(f"vLLM ended with {server.process.returncode}:\n{server.last_words()}")
    finally:
        for server in servers:
            server.stop()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
