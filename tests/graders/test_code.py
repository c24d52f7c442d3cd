"""Programs in answers: the block that counts, LiveCodeBench's two ways of testing, and its packed tests."""

import base64
import json
import pickle
import sys
import zlib
from typing import Any

import pytest

from glimprouter.errors import ConfigError
from glimprouter.evaluate.graders.code import CodeGrader, last_block, same_output
from glimprouter.evaluate.suites.livecodebench import cases_of
from glimprouter.evaluate.suites.suite import Problem


def packed(cases: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def entry(
    kind: str, public: list[tuple[str, str]], private: list[tuple[str, str]], function: str = ""
) -> dict[str, Any]:
    def cases(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
        return [{"input": given, "output": wanted, "testtype": kind} for given, wanted in pairs]

    return {
        "question_id": "q1",
        "public_test_cases": json.dumps(cases(public)),
        "private_test_cases": packed(cases(private)),
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


STDIN = entry("stdin", [("1 2\n", "3\n")], [("10 20\n", "30\n")])
FUNCTION = entry("functional", [("[1, 2]\n3", "[4, 5]")], [("[]\n1", "[]")], "shift")


def answer(code: str) -> str:
    return f"Here it is:\n\n```python\n{code}\n```\n"


@pytest.fixture(scope="module")
def grader() -> CodeGrader:
    try:
        return CodeGrader()
    except ConfigError as refused:
        pytest.skip(str(refused))


@pytest.mark.parametrize(
    ("record", "code", "reason"),
    [
        (STDIN, "print(sum(map(int, input().split())))", ""),
        (STDIN, "print(3)", "test 2: another result"),
        (STDIN, "a, b = map(int, input().split())\nprint(a - b)", "test 1: another result"),
        (STDIN, "raise SystemExit(1)", "test 1: exit code 1"),
        (STDIN, "def (", "test 1: exit code 1: SyntaxError"),
        (
            FUNCTION,
            "class Solution:\n    def shift(self, a: List[int], b: int):\n        return [x + b for x in a]",
            "",
        ),
        (FUNCTION, "def shift(a, b):\n    print('loud')\n    return tuple(x + b for x in a)", ""),
        (FUNCTION, "class Solution:\n    def shift(self, a, b):\n        return a", "test 1: another result"),
        (
            FUNCTION,
            "class Solution:\n    def other(self, a, b):\n        return a",
            "test 1: exit code 1: AttributeError",
        ),
        (
            FUNCTION,
            "from __future__ import annotations\ndef shift(a, b):\n    return [pow(x + b, 1, 99) for x in a]",
            "",
        ),
    ],
)
def test_all_tests_must_pass(grader: CodeGrader, record: dict[str, Any], code: str, reason: str) -> None:
    grade = grader.grade(Problem("q1", "easy", "?", "all tests pass", record), answer(code))
    assert grade.correct == (reason == "")
    assert grade.reason.startswith(reason)
    assert grade.extracted is not None


def test_what_holds_no_program_is_not_run(grader: CodeGrader) -> None:
    grade = grader.grade(Problem("q1", "easy", "?", "", STDIN), "I would sum them.")
    assert (grade.correct, grade.extracted) == (False, None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\na\n```\nor\n```python\nb\n```", "b\n"),
        ("```\na\n```", "a\n"),
        ("```Python3 title\na\n```", "a\n"),
        ("```python\na\n```\n```cpp\nint b;\n```", "a\n"),
        ("```python\ncut off", None),
        ("```python\n```", None),
        ("no code", None),
    ],
)
def test_last_closed_block_of_python_counts(text: str, found: str | None) -> None:
    assert last_block(text) == found


@pytest.mark.parametrize(
    ("written", "wanted", "same"),
    [
        ("1 2\n", "1 2", True), ("1.0\n", "1", True), ("a \nb\n", "a\nb", True), ("1\n2", "1 2", False),
        ("0.30000000000000004", "0.3", False), ("yes", "Yes", False), ("", "1", False), ("1 x", "1.0 x", False),
    ],
)  # fmt: skip
def test_output_is_compared_by_lines_and_numbers(written: str, wanted: str, same: bool) -> None:
    assert same_output(written, wanted) is same


def test_tests_come_in_order_public_first() -> None:
    assert [test.input for test in cases_of(STDIN)] == ["1 2\n", "10 20\n"]
    assert [test.function for test in cases_of(FUNCTION)] == ["shift", "shift"]


class Malice:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return sys.exit, ("executed",)


@pytest.mark.parametrize(
    "private",
    [
        base64.b64encode(zlib.compress(pickle.dumps(Malice()))).decode(),
        base64.b64encode(zlib.compress(pickle.dumps(b"[]"))).decode(),
        base64.b64encode(zlib.compress(b"no pickle")).decode(),
        base64.b64encode(b"not packed").decode(),
        "!!!",
        "",
    ],
)
def test_packed_tests_run_nothing_and_damaged_ones_are_named(private: str) -> None:
    with pytest.raises(ConfigError, match="'q1': its tests cannot be read") as refused:
        cases_of({**STDIN, "private_test_cases": private})
    assert refused.value.field == "data"
