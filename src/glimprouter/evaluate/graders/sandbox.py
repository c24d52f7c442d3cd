"""Runs a program nobody trusts: its own namespaces, no rights, no network, limits, killed whole with all it started.

What it protects from is code that a model wrote, by mistake or by malice: it cannot reach files, processes, the network
or the environment of ours, nor take more than its limits. Holes in the kernel are out of its reach. Linux only; where
the kernel gives what is needed neither to root nor to a user, it refuses (see `require`).
"""

from __future__ import annotations

import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

from glimprouter.errors import ConfigError
from glimprouter.evaluate.graders import sandbox_child

MIB = 1024 * 1024
WATCH_S = 0.05
"""So often the memory of all processes in the box is summed up."""

KILLED_WITHIN_S = 10.0
SET_UP_S = 20.0
"""The box itself stands in some 50 ms; this is for a machine that does everything else first."""

_CHUNK = 64 * 1024
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/etc/ld.so.cache")

Ending = Literal["exit", "signal", "cpu", "wall", "memory", "output"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run. Memory is for each process and, resident, for all together; output is both streams together."""

    cpu_s: int = 10
    wall_s: float = 20.0
    memory_bytes: int = 1024 * MIB
    output_bytes: int = 16 * MIB
    file_bytes: int = 16 * MIB
    folder_bytes: int = 64 * MIB
    files: int = 256
    open_files: int = 64
    processes: int = 16


@dataclass(frozen=True, slots=True)
class Program:
    """Python: `files` stand in the working directory, `main` is the one that is run."""

    files: Mapping[str, str]
    main: str = "main.py"
    arguments: tuple[str, ...] = ()
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: by itself (`exit`, with its code), by a signal, or at a limit; and what it wrote until then."""

    ending: Ending
    code: int | None
    stdout: bytes
    stderr: bytes
    cpu_s: float | None
    wall_s: float


@functools.cache
def require() -> None:
    """Raises ConfigError where no box can be built, with the reason and what to do."""
    if sys.platform != "linux":
        raise ConfigError(
            f"answers in code are run in a sandbox that needs Linux, this is {sys.platform}; use a Linux container",
            field="suite",
        )
    ended = run(Program({"main.py": "print('ready')"}))
    if (ended.ending, ended.code, ended.stdout) != ("exit", 0, b"ready\n"):
        raise _refusal(f"a trial program did not run ({ended.ending} {ended.code}: {ended.stderr[-500:]!r})")


def run(program: Program, limits: Limits = Limits()) -> Ended:
    """Run it to its end or to a limit. Raises ConfigError where no box can be built: nothing is run outside one."""
    with tempfile.TemporaryDirectory(prefix="glimprouter-box-") as root:
        status_end, child_end = os.pipe()
        try:
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH, str(child_end), sandbox_child.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[child_end],
                env={},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(status_end)
            raise
        finally:
            os.close(child_end)
        with _Watched(launcher, status_end, limits) as watched:
            return watched.until_end(_description(program, limits, root))


# The status pipe gets the number the launcher expects before the launcher is read.
_LAUNCH = f"""
import os, runpy, sys
status, script = int(sys.argv[1]), sys.argv[2]
if status != {sandbox_child.STATUS_FD}:
    os.dup2(status, {sandbox_child.STATUS_FD})
    os.close(status)
runpy.run_path(script, run_name="__main__")
"""


def _description(program: Program, limits: Limits, root: str) -> bytes:
    python = os.path.realpath(sys.executable)
    contents = {name: text.encode("utf-8", "surrogatepass") for name, text in program.files.items()}
    wanted = {
        "root": root,
        "readable": [*dict.fromkeys((sys.base_prefix, sys.base_exec_prefix, python)), *_SYSTEM_LIBRARIES],
        "limits": asdict(limits),
        "command": [python, "-I", "-B", program.main, *program.arguments],
        "stdin_bytes": len(program.stdin),
        "files": [(name, len(content)) for name, content in contents.items()],
    }
    return b"".join((json.dumps(wanted).encode(), b"\n", program.stdin, *contents.values()))


def _refusal(reason: str) -> ConfigError:
    return ConfigError(
        f"answers in code are run in a sandbox, which cannot be built here: {reason}; it needs Linux 5.12 or newer and "
        "either root with the right to mount (a container: --privileged, or --cap-add SYS_ADMIN and no AppArmor) "
        "or user namespaces open to users (kernel.unprivileged_userns_clone, AppArmor)",
        field="suite",
    )


@dataclass(slots=True)
class _Watched:
    """The launcher and its pipes. Leaving the context kills the box with everything in it."""

    launcher: subprocess.Popen[bytes]
    status_fd: int
    limits: Limits
    _output: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    _status: bytearray = field(default_factory=bytearray)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.launcher.terminate()
        try:
            self.launcher.wait(KILLED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.launcher.kill()
            self.launcher.wait()
        os.close(self.status_fd)
        for stream in (self.launcher.stdin, self.launcher.stdout, self.launcher.stderr):
            if stream is not None:
                stream.close()

    def until_end(self, description: bytes) -> Ended:
        self._describe(description)
        begun = time.monotonic()
        limit = self._read(begun)
        wall_s = time.monotonic() - begun
        first, whole, _ = bytes(self._status).partition(b"\n")
        told = json.loads(first) if whole else {}
        if "refused" in told:
            raise _refusal(told["refused"])
        if not told and limit is None:
            raise _refusal(f"its launcher ended early: {bytes(self._output['stderr'][-500:])!r}")
        code, cpu_s = told.get("code"), told.get("cpu_s")
        return Ended(
            ending=limit or self._ending(told["code"], told["cpu_s"]),
            code=code if limit is None else None,
            stdout=bytes(self._output["stdout"]),
            stderr=bytes(self._output["stderr"]),
            cpu_s=cpu_s,
            wall_s=wall_s,
        )

    def _describe(self, description: bytes) -> None:
        assert self.launcher.stdin is not None
        try:
            self.launcher.stdin.write(description)
            self.launcher.stdin.close()
        except BrokenPipeError:
            pass  # it ended early: the status pipe says why

    def _read(self, begun: float) -> Ending | None:
        """Take in output until all pipes are closed, or the limit that was reached first."""
        assert self.launcher.stdout is not None
        assert self.launcher.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.launcher.stdout, selectors.EVENT_READ, self._output["stdout"])
            selector.register(self.launcher.stderr, selectors.EVENT_READ, self._output["stderr"])
            selector.register(self.status_fd, selectors.EVENT_READ, self._status)
            while selector.get_map():
                for key, _ in selector.select(WATCH_S):
                    chunk = os.read(key.fd, _CHUNK)
                    key.data.extend(chunk)
                    if not chunk:
                        selector.unregister(key.fileobj)
                if (limit := self._reached(begun)) is not None:
                    return limit
        return None

    def _reached(self, begun: float) -> Ending | None:
        if sum(map(len, self._output.values())) > self.limits.output_bytes:
            return "output"
        if time.monotonic() - begun > self.limits.wall_s:
            return "wall"
        if sum(resident_bytes(self.launcher.pid)) > self.limits.memory_bytes:
            return "memory"
        return None

    def _ending(self, code: int, cpu_s: float) -> Ending:
        if code >= 0:
            return "exit"
        # A program that catches SIGXCPU is killed a second later, by a signal that alone would not tell why.
        return "cpu" if code == -signal.SIGXCPU or cpu_s >= self.limits.cpu_s else "signal"


def resident_bytes(pid: int) -> Iterator[int]:
    """Resident memory of all processes below this one, itself left out; those that end meanwhile are passed over."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    for task in tasks:
        try:
            children = (task / "children").read_text(encoding="ascii").split()
        except OSError:
            continue
        for child in children:
            try:
                pages = int(Path(f"/proc/{child}/statm").read_text(encoding="ascii").split()[1])
            except (OSError, IndexError):
                continue
            yield pages * os.sysconf("SC_PAGE_SIZE")
            yield from resident_bytes(int(child))
