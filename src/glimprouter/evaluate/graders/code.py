"""Code: the last block of Python in an answer, run in the sandbox; all of LiveCodeBench's tests must pass."""

from __future__ import annotations

import ast
import json
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path

from glimprouter.evaluate.graders import code_driver, sandbox
from glimprouter.evaluate.graders.grade import NOTHING, Grade
from glimprouter.evaluate.suites.livecodebench import Case, cases_of
from glimprouter.evaluate.suites.suite import Problem

LIMITS = sandbox.Limits(cpu_s=6, wall_s=15.0)
"""Of each test; six seconds is the benchmark's own."""

_BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_LANGUAGES = ("", "python", "python3", "py")
_DRIVER = Path(code_driver.__file__).read_text(encoding="utf-8")
_PREAMBLE = (
    "import bisect, collections, copy, functools, heapq, itertools\n"
    "import json, math, operator, random, re, string, sys\n"
    "from bisect import *\nfrom collections import *\nfrom functools import *\nfrom heapq import *\n"
    "from itertools import *\nfrom math import *\nfrom operator import *\nfrom typing import *\n"
    "from builtins import pow\n"
)
"""What LeetCode's own judge has imported. The built-in pow comes last: it knows a modulus."""


class CodeGrader:
    """Raises ConfigError where no sandbox can be had: nothing a model wrote is ever run outside one."""

    def __init__(self, limits: sandbox.Limits = LIMITS) -> None:
        sandbox.require()
        self._limits = limits

    def grade(self, problem: Problem, answer: str) -> Grade:
        source = last_block(answer)
        if source is None:
            return NOTHING
        for number, test in enumerate(cases_of(problem.entry), 1):
            if (reason := self._fails(source, test)) is not None:
                return Grade(False, source, f"test {number}: {reason}")
        return Grade(True, source)

    def close(self) -> None:
        pass

    def _fails(self, source: str, test: Case) -> str | None:
        ended = sandbox.run(_program(source, test), self._limits)
        if ended.ending != "exit":
            return f"stopped ({ended.ending})"
        if ended.code != 0:
            return f"exit code {ended.code}: {_last_line(ended.stderr)}"
        written = ended.stdout.decode("utf-8", "replace")
        right = same_output(written, test.output) if test.function is None else _same_value(written, test.output)
        return None if right else "another result"


def last_block(answer: str) -> str | None:
    """The last closed block of Python. One that was cut off, or is of another language, is no answer."""
    blocks = [body for language, body in _BLOCK.findall(answer) if language.lower() in _LANGUAGES and body.strip()]
    return blocks[-1] if blocks else None


def same_output(written: str, wanted: str) -> bool:
    """Line by line without outer white space; where texts differ, numbers are compared as numbers."""
    lines, expected = written.strip().split("\n"), wanted.strip().split("\n")
    return len(lines) == len(expected) and all(map(_same_line, lines, expected))


def _program(source: str, test: Case) -> sandbox.Program:
    if test.function is None:
        return sandbox.Program({"main.py": source}, stdin=test.input.encode())
    call = {
        "function": test.function,
        "arguments": [json.loads(line) for line in test.input.split("\n") if line.strip()],
    }
    return sandbox.Program({"main.py": _DRIVER, "solution.py": _with_preamble(source)}, stdin=json.dumps(call).encode())


def _with_preamble(source: str) -> str:
    """Imports from __future__ must come first; a file that does not parse fails in the sandbox, with its own error."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return source
    future = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    line = future[-1].end_lineno or 0 if future else 0
    lines = source.splitlines(keepends=True)
    return "".join(lines[:line]) + "\n" + _PREAMBLE + "".join(lines[line:])


def _same_line(one: str, other: str) -> bool:
    if one.strip() == other.strip():
        return True
    try:
        return [Decimal(word) for word in one.split()] == [Decimal(word) for word in other.split()]
    except InvalidOperation:
        return False


def _same_value(written: str, wanted: str) -> bool:
    try:
        return bool(json.loads(written) == json.loads(wanted))
    except ValueError:
        return False


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else "no message"
