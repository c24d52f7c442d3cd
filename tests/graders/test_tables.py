"""Answers and gold answers with the verdict that is due: right, wrong, or nothing that could be graded."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimprouter.evaluate.graders.choice import ChoiceGrader
from glimprouter.evaluate.graders.grade import Grade
from glimprouter.evaluate.suites.suite import Problem

DATA = Path(__file__).parent / "data"
OPTIONS = ("42 cm", "17 cm", "\\frac{1}{2}", "none of the others")


def rows(kind: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]


def problem(gold: str) -> Problem:
    return Problem("q", "f", "?", gold, {"options": OPTIONS})


def verdict(grade: Grade) -> str:
    return "right" if grade.correct else "nothing" if grade.extracted is None else "wrong"


def test_choice_is_graded_as_the_table_says() -> None:
    table = rows("choice")
    assert len(table) >= 150
    found = [(row, verdict(ChoiceGrader().grade(problem(row["gold"]), row["answer"]))) for row in table]
    assert [(row, said) for row, said in found if said != row["verdict"]] == []


@pytest.fixture(scope="module")
def maths() -> Iterator[object]:
    pytest.importorskip("math_verify")
    from glimprouter.evaluate.graders.maths import MathsGrader

    grader = MathsGrader()
    yield grader
    grader.close()


def test_mathematics_is_graded_as_the_table_says(maths: object) -> None:
    from glimprouter.evaluate.graders.maths import MathsGrader

    assert isinstance(maths, MathsGrader)
    table = rows("maths")
    assert len(table) >= 150
    found = [(row, verdict(maths.grade(problem(row["gold"]), row["answer"]))) for row in table]
    assert [(row, said) for row, said in found if said != row["verdict"]] == []


def test_what_hangs_is_killed_and_the_next_answer_graded() -> None:
    pytest.importorskip("math_verify")
    from glimprouter.evaluate.graders.maths import MathsGrader

    grader = MathsGrader(patience_s=1.0)
    try:
        assert "did not end within" in grader.grade(problem("3"), "\\boxed{9^{9^{9^{9}}}}").reason
        grader._patience_s = 20.0
        assert grader.grade(problem("3"), "\\boxed{3}").correct
    finally:
        grader.close()
