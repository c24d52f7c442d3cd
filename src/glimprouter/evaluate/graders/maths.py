"""Mathematics by math-verify, in a process of its own: it cannot hang the run, fill its memory, or disturb its signals.

math-verify's own time limits are signals, which only a main thread can have and which do not reach into long steps of
C code. Here they are off; a process that does not answer in time is killed and a new one started.
"""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
import time

from glimprouter.errors import ConfigError
from glimprouter.evaluate.graders import maths_child
from glimprouter.evaluate.graders.extraction import extract
from glimprouter.evaluate.graders.grade import NOTHING, Grade
from glimprouter.evaluate.suites.suite import Problem

PATIENCE_S = 15.0
START_UP_S = 120.0
"""sympy takes a second or two to load, longer on a machine that does everything else first."""


class MathsGrader:
    """One child at a time, started when first needed."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError(
                "answers in mathematics are graded by math-verify, which is not installed; "
                "install it with: pip install 'glimprouter[eval]'",
                field="suite",
            )
        self._patience_s = patience_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def grade(self, problem: Problem, answer: str) -> Grade:
        extracted = extract(answer)
        return NOTHING if extracted is None else self.compare(extracted, problem.answer)

    def compare(self, extracted: str, gold: str) -> Grade:
        """Whether a bare expression is the gold one."""
        with self._lock:
            child = self._child or self._start()
            reply = self._ask(child, {"gold": gold, "answer": extracted})
        if reply is None:
            return Grade(False, extracted, f"math-verify did not end within {self._patience_s:g} s")
        return Grade(bool(reply["right"]), extracted, str(reply["reason"]))

    def close(self) -> None:
        if self._child is not None:
            self._stop(self._child)

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = child = subprocess.Popen(
            [sys.executable, maths_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        if self._line(child, START_UP_S) is None:
            self._stop(child)
            raise ConfigError(
                "math-verify cannot be loaded; reinstall it with: pip install 'glimprouter[eval]'", field="suite"
            )
        return child

    def _ask(self, child: subprocess.Popen[bytes], question: dict[str, str]) -> dict[str, object] | None:
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            line = self._line(child, self._patience_s)
        except BrokenPipeError:
            line = None
        if line is None:
            self._stop(child)
            return None
        reply: dict[str, object] = json.loads(line)
        return reply

    def _line(self, child: subprocess.Popen[bytes], within_s: float) -> bytes | None:
        """The child's next line; None where it does not come in time or the child has ended."""
        assert child.stdout is not None
        line, deadline = b"", time.monotonic() + within_s
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    return None
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    return None
                line += chunk
        return line

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        self._child = None
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()
