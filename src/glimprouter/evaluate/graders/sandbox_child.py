"""Builds the box that `sandbox.run` asks for and starts the program in it. A script of its own.

Three processes: the **launcher** (outside, with our rights) enters new namespaces and builds the box's file system; the
**first** process of the new process namespace waits for the program, and with its end the kernel kills whatever is left
inside, however it was forked; the **program** drops every right before it is started. What the launcher cannot build it
says on the status pipe, and nothing is started: there is no weaker box.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

STATUS_FD = 3
NOBODY = 65534
FIRST_FREE_UID = 1_000_000_000
"""Each box has a uid of its own, this and the launcher's pid: the kernel counts processes by uid."""

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2

# System calls a program to be graded has no use for: memory that no limit counts (shared segments, memory files,
# message queues), other processes' memory, sockets, and doors into the kernel that have been forced before.
_DENIED = {
    "x86_64": (
        29, 41, 64, 68, 101, 165, 240, 248, 249, 250, 272, 298, 304, 308, 310, 311, 319, 321, 323, 425, 430, 447,
    ),
    "aarch64": (
        40, 97, 117, 180, 186, 190, 194, 198, 217, 218, 219, 241, 265, 268, 270, 271, 279, 280, 282, 425, 430, 447,
    ),
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000
_BPF_LOAD, _BPF_EQUAL, _BPF_AT_LEAST, _BPF_RETURN = 0x20, 0x15, 0x35, 0x06
_SECCOMP_KILL, _SECCOMP_ALLOW, _SECCOMP_ERRNO = 0x80000000, 0x7FFF0000, 0x00050000

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The box cannot be built; says which part and why."""


def main() -> None:
    """Read what is wanted from standard input; standard output and error are the program's."""
    os.set_inheritable(STATUS_FD, False)
    try:
        wanted = json.loads(sys.stdin.buffer.readline())
        stdin = _sealed(_exactly(sys.stdin.buffer, wanted["stdin_bytes"]))
        files = [(name, _exactly(sys.stdin.buffer, size)) for name, size in wanted["files"]]
        uid = _enter_namespaces()
        _build(wanted, files, uid)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
        first = os.fork()
        if first == 0:
            _be_first(wanted, stdin, uid)
        _wait_or_kill(first)
    except (Refused, OSError) as error:
        _tell({"refused": str(error)})
        sys.exit(1)


def _enter_namespaces() -> int:
    """New namespaces around this process; the uid that programs in them shall have."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    spaces = _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID | _CLONE_NEWNET
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _checked("namespaces", _libc.unshare(spaces))
        return FIRST_FREE_UID + os.getpid()
    _checked("namespaces without root's rights", _libc.unshare(spaces | _CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1", encoding="ascii")
    return NOBODY


def _build(wanted: dict[str, Any], files: list[tuple[str, bytes]], uid: int) -> None:
    """A root of its own: the interpreter and its libraries, read only, two devices, and a small /tmp to write in."""
    root, limits = Path(wanted["root"]), wanted["limits"]
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,nr_inodes=256,mode=755")
    for path in wanted["readable"]:
        _show(path, root)
    for device in ("null", "urandom"):
        _show(f"/dev/{device}", root)
    box = root / "tmp"
    box.mkdir()
    options = f"size={limits['folder_bytes']},nr_inodes={limits['files']},mode=700,uid={uid},gid={uid}"
    _mount("tmpfs", box, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    for name, content in files:
        (box / name).write_bytes(content)
        (box / name).chmod(0o444)
    _mount(None, root, None, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    # In a changed root the kernel refuses new user namespaces, and with them every right to be had inside one.
    os.chroot(root)
    os.chdir("/tmp")


def _show(path: str, root: Path) -> None:
    """Show a file or folder in the box at its own place, read only. A link stays one; what is missing is left out."""
    source, place = Path(path), root / path.lstrip("/")
    if place.exists() or place.is_symlink():
        return
    if source.is_symlink():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source.readlink())
    elif source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    elif source.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    else:
        return
    if not source.is_symlink():
        _mount(source, place, None, _MS_BIND | _MS_REC)
        attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
        target = os.fsencode(place)
        changed = _libc.syscall(
            _SYS_MOUNT_SETATTR, _AT_FDCWD, target, _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes))
        )
        _checked(f"a read-only view of {path}", changed)


def _wait_or_kill(first: int) -> None:
    """Until the box is empty. SIGTERM empties it: the namespace dies with its first process."""
    while True:
        if signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGTERM:
            os.kill(first, signal.SIGKILL)
        if os.waitpid(first, os.WNOHANG)[0]:
            return


def _be_first(wanted: dict[str, Any], stdin: int, uid: int) -> NoReturn:
    """Start the program, bury what is orphaned, tell how the program ended. Leaving kills all that is left inside."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _libc.prctl(_PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = os.fork()
    if program == 0:
        _be_program(wanted, stdin, uid)
    while True:
        ended, status, usage = os.wait3(0)
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            _tell({"code": code, "cpu_s": usage.ru_utime + usage.ru_stime})
            os._exit(0)


def _be_program(wanted: dict[str, Any], stdin: int, uid: int) -> NoReturn:
    """Become the program: no rights, limits, an empty environment, nothing open but the three standard streams."""
    try:
        os.setsid()
        os.dup2(stdin, 0)
        _limit(wanted["limits"])
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        _checked("giving up rights for good", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _filter_system_calls()
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP) and not 32 <= number < signal.SIGRTMIN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execve(wanted["command"][0], wanted["command"], {})
    except BaseException as error:
        _tell({"refused": f"the program cannot be started: {error}"})
        os._exit(1)


def _limit(limits: dict[str, Any]) -> None:
    cpu_s = limits["cpu_s"]
    for what, soft, hard in (
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"], limits["processes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"], limits["open_files"]),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))


def _filter_system_calls() -> None:
    machine = platform.machine()
    if machine not in _DENIED:
        raise Refused(f"the filter of system calls is not written for {machine} (known: {', '.join(_DENIED)})")
    denied = _DENIED[machine]
    steps = [(_BPF_LOAD, 0, 0, 4), (_BPF_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_BPF_RETURN, 0, 0, _SECCOMP_KILL)]
    steps += [(_BPF_LOAD, 0, 0, 0), (_BPF_AT_LEAST, 0, 1, _X32_CALLS), (_BPF_RETURN, 0, 0, _SECCOMP_KILL)]
    steps += [(_BPF_EQUAL, len(denied) - place, 0, number) for place, number in enumerate(denied)]
    steps += [(_BPF_RETURN, 0, 0, _SECCOMP_ALLOW), (_BPF_RETURN, 0, 0, _SECCOMP_ERRNO | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    _checked("the filter of system calls", _libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0))


def _sealed(content: bytes) -> int:
    """A file in memory that nobody can change any more, at its beginning."""
    file = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(file), "wb") as writing:
        writing.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(
        file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return file


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise Refused("its description was cut short")
    return content


def _mount(source: str | Path | None, target: str | Path, kind: str | None, flags: int, options: str = "") -> None:
    done = _libc.mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _checked(f"mounting {target}", done)


def _checked(what: str, result: int) -> None:
    if result != 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")


def _tell(status: dict[str, Any]) -> None:
    os.write(STATUS_FD, json.dumps(status).encode() + b"\n")


if __name__ == "__main__":
    main()
