"""What a program in the sandbox may not do, it cannot: each attempt ends at its limit, and the next program runs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimprouter.errors import ConfigError
from glimprouter.evaluate.graders import sandbox
from glimprouter.evaluate.graders.sandbox import MIB, Ended, Limits, Program, require, run

if sys.platform != "linux":
    pytest.skip("the sandbox needs Linux", allow_module_level=True)
try:
    require()
except ConfigError as refused:
    pytest.skip(str(refused), allow_module_level=True)

TIGHT = Limits(
    cpu_s=1, wall_s=20.0, memory_bytes=256 * MIB, output_bytes=MIB, file_bytes=MIB, folder_bytes=4 * MIB, files=32,
    processes=8,
)  # fmt: skip


def box(source: str, *, limits: Limits = TIGHT, stdin: bytes = b"") -> Ended:
    return run(Program({"main.py": source}, stdin=stdin), limits)


@pytest.fixture(autouse=True)
def next_program_runs() -> Iterator[None]:
    """Whatever a program did, the one after it is not touched."""
    yield
    ended = box("print(int(input()) + 1)", stdin=b"41\n")
    assert (ended.ending, ended.code, ended.stdout) == ("exit", 0, b"42\n")


def test_a_program_gets_its_input_and_its_output_and_exit_code_are_told() -> None:
    ended = box("import sys; print(sys.stdin.read().upper()); print('no', file=sys.stderr); sys.exit(3)", stdin=b"ab")
    assert (ended.ending, ended.code, ended.stdout, ended.stderr) == ("exit", 3, b"AB\n", b"no\n")


def test_endless_loop_ends_at_its_processor_time() -> None:
    assert box("while True: pass", limits=Limits(cpu_s=1)).ending == "cpu"


def test_endless_loop_that_ignores_the_warning_ends_a_second_later() -> None:
    ended = box(
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", limits=Limits(cpu_s=1)
    )
    assert ended.ending == "cpu"


def test_sleeper_ends_at_the_wall_clock() -> None:
    ended = box("import time; time.sleep(60)", limits=Limits(wall_s=0.5))
    assert ended.ending == "wall"
    assert ended.wall_s < 30


def test_ten_gigabytes_are_not_to_be_had() -> None:
    ended = box("bytearray(10**10)")
    assert ended.code == 1
    assert b"MemoryError" in ended.stderr


def test_many_processes_share_one_limit_of_memory() -> None:
    source = "import os, time\nfor _ in range(3): os.fork()\nheld = b'x' * (90 * 2**20)\ntime.sleep(30)"
    assert box(source, limits=Limits(wall_s=20, memory_bytes=256 * MIB)).ending == "memory"


def test_fork_bomb_stays_within_its_processes_and_dies_with_them() -> None:
    source = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    ended = box(source, limits=Limits(cpu_s=1, wall_s=1.0, processes=8))
    assert ended.ending in ("wall", "cpu")


def test_a_gigabyte_of_output_fills_no_memory() -> None:
    ended = box("import sys\nfor _ in range(1024): sys.stdout.write('x' * 2**20)")
    assert ended.ending == "output"
    assert len(ended.stdout) < 2 * MIB


@pytest.mark.parametrize(
    "path", ["/x", "/usr/x", "/dev/x", "/etc/x", "/tmp/../x", os.path.realpath(sys.base_prefix) + "/x"]
)
def test_nothing_can_be_written_outside_its_folder(path: str) -> None:
    ended = box(f"open({path!r}, 'w')")
    assert ended.code == 1
    assert b"Read-only" in ended.stderr or b"Permission denied" in ended.stderr or b"No such file" in ended.stderr


def test_files_of_ours_are_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    assert b"No such file" in box(f"open({str(secret)!r})").stderr


@pytest.mark.parametrize(
    "source",
    [
        "open('big', 'wb').write(b'x' * (2 * 2**20))",
        "for n in range(9): open(f'part{n}', 'wb').write(b'x' * 2**20)",
        "for n in range(100): open(f'file{n}', 'w')",
        "held = [open('main.py') for _ in range(1000)]",
    ],
)
def test_files_are_limited_in_size_in_sum_and_in_number(source: str) -> None:
    ended = box(source)
    assert (ended.ending, ended.code == 0) in (("exit", False), ("signal", False))


@pytest.mark.parametrize(
    "source",
    [
        "import socket; socket.create_connection(('1.1.1.1', 53), 1)",
        "import socket; socket.create_server(('127.0.0.1', 0))",
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
    ],
)
def test_there_is_no_network(source: str) -> None:
    assert b"Operation not permitted" in box(source).stderr


def test_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    assert b"API_KEY" not in box("import os; print(dict(os.environ))").stdout


def test_processes_of_ours_cannot_be_seen_or_killed() -> None:
    ours = os.getpid()
    seen = box(f"import os; print(os.path.exists('/proc/{ours}'), os.path.exists('/proc/1/environ'), os.getppid())")
    assert seen.stdout == b"False False 1\n"
    assert box(f"import os; os.kill({ours}, 9)").code == 1
    # Itself is all that -1 reaches, and its parent inside cannot be killed.
    box("import os; os.kill(1, 9); os.kill(-1, 9)")


def test_no_right_can_be_had_again() -> None:
    source = "import ctypes; c = ctypes.CDLL(None); print(c.unshare(0x10000000), c.setuid(0), c.chroot(b'/'))"
    assert box(source).stdout.split() == [b"-1", b"-1", b"-1"]


def test_memory_that_no_limit_counts_is_not_to_be_had() -> None:
    source = "import ctypes, os; print(ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600)); os.memfd_create('m')"
    ended = box(source)
    assert ended.stdout == b"-1\n"
    assert b"Operation not permitted" in ended.stderr


def test_a_daemon_that_forked_twice_dies_with_the_program() -> None:
    daemon = "  os.setsid()\n  if os.fork() == 0: time.sleep(4321)\n  os._exit(0)\n"
    source = f"import os, time\nif os.fork() == 0:\n{daemon}print('left')"
    begun = time.monotonic()
    ended = box(source, limits=Limits(wall_s=20))
    assert (ended.ending, ended.stdout) == ("exit", b"left\n")
    assert time.monotonic() - begun < 15


def test_where_no_box_can_be_built_nothing_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    monkeypatch.setattr(sandbox, "_SYSTEM_LIBRARIES", ("relative/\0broken",))
    with pytest.raises(ConfigError, match="cannot be built here") as refused:
        box(f"open({str(witness)!r}, 'w')")
    assert refused.value.field == "suite"
    assert not witness.exists()


def test_other_systems_are_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    require.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="needs Linux, this is darwin"):
        require()


def test_the_memory_of_a_process_that_has_ended_is_none() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert list(sandbox.resident_bytes(ended.pid)) == []
