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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

START_S = 180.0
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
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.NamedTemporaryFile(prefix=f"vllm-{name}-", suffix=".log", delete=False)  # noqa: SIM115
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--max-model-len", str(context_tokens), *FLAGS, *flags]
        self.process = subprocess.Popen(
            command,
            env=os.environ | ENVIRONMENT | dict(environment),
            stdout=self._log,
            stderr=self._log,
            preexec_fn=_die_with_parent,
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
        self.stop()
        raise RuntimeError(f"vLLM did not start:\n{Path(self._log.name).read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()


@contextmanager
def serving(*models: tuple[Path, str, int], python: str = sys.executable) -> Iterator[list[str]]:
    """The addresses of servers for (folder, name, context tokens) each, started side by side."""
    servers = [VllmServer(path, name=name, context_tokens=tokens, python=python) for path, name, tokens in models]
    try:
        for server in servers:
            server.wait()
        yield [server.url for server in servers]
    finally:
        for server in servers:
            server.stop()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
