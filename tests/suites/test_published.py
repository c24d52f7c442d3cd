"""Data sets in their own formats, from files; and what is said where they cannot be had."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from glimprouter.cli.main import main
from glimprouter.errors import ConfigError
from glimprouter.evaluate.suites.registry import NAMES, is_suite, known_suites, suite_of

AIME24 = {"id": 60, "problem": "Find x.", "solution": "…", "answer": "204", "url": "u", "year": "2024"}
MATH500 = {
    "problem": "Halve 1.", "solution": "…", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 2,
    "unique_id": "test/algebra/1.json",
}  # fmt: skip
GPQA = {
    "Record ID": "rec1", "Question": "Which?", "Correct Answer": "gold", "Incorrect Answer 1": "lead",
    "Incorrect Answer 2": "iron", "Incorrect Answer 3": "tin", "High-level domain": "Chemistry", "Subdomain": "x",
}  # fmt: skip
CODE = {
    "question_title": "Sum", "question_content": "Sum {a, b}.", "platform": "atcoder", "question_id": "abc1",
    "contest_id": "abc", "contest_date": "2025-01-01T00:00:00", "starter_code": "", "difficulty": "easy",
    "public_test_cases": "[]", "private_test_cases": "[]", "metadata": "{}",
}  # fmt: skip
RECORDS: dict[str, dict[str, Any]] = {
    "aime24": AIME24, "aime25": {"problem": "Find y.", "answer": "70", "id": "0"}, "math500": MATH500,
    "gpqa-diamond": GPQA, "livecodebench-v5": CODE, "livecodebench-v6": CODE,
}  # fmt: skip


def file_of(tmp_path: Path, *records: dict[str, Any]) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", RECORDS)
def test_records_become_problems(name: str, tmp_path: Path) -> None:
    (problem,) = suite_of(name, data=file_of(tmp_path, RECORDS[name])).problems("report", None)
    text = RECORDS[name].get("problem") or RECORDS[name].get("Question") or RECORDS[name]["question_content"]
    assert text in problem.question
    assert problem.family
    assert problem.id


@pytest.mark.parametrize("name", RECORDS)
def test_a_missing_field_is_named(name: str, tmp_path: Path) -> None:
    suite = suite_of(name, data=file_of(tmp_path, {"text": "x"}))
    with pytest.raises(ConfigError, match="record 1: lacks "):
        suite.problems("report", None)


def test_options_are_shuffled_by_seed_and_the_letter_follows(tmp_path: Path) -> None:
    path = file_of(tmp_path, *({**GPQA, "Record ID": f"rec{number}"} for number in range(40)))
    first, again, other = (
        suite_of("gpqa-diamond", data=path, seed=seed).problems("report", None) for seed in (1, 1, 2)
    )
    assert first == again
    assert [one.answer for one in first] != [one.answer for one in other]
    assert {one.answer for one in first} == set("ABCD")
    assert all(f"{one.answer}) gold" in one.question for one in first)


def test_fewer_questions_are_the_first_of_more(tmp_path: Path) -> None:
    path = file_of(tmp_path, *({**AIME24, "id": number} for number in range(30)))
    suite = suite_of("aime24", data=path)
    assert suite.problems("report", 5) == suite.problems("report", None)[:5]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", ":1: not a line of JSON"),
        (b"[1]\n", ":1: not an object"),
        (b"\xff\xfe", "is no text"),
        (b"", "no questions"),
    ],
)
def test_a_file_that_is_none_is_said_to_be(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        suite_of("aime24", data=path).problems("report", None)


def test_csv_is_read_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "gpqa.csv"
    path.write_text(",".join(GPQA) + "\n" + ",".join(map(str, GPQA.values())) + "\n", encoding="utf-8")
    assert len(suite_of("gpqa-diamond", data=path).problems("report", None)) == 1


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed")
def test_without_datasets_both_ways_to_the_data_are_named() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'glimprouter\[data\]'.*revision 2fe88a2f.*--data FILE"):
        suite_of("aime24").problems("report", None)


def test_calibration_needs_another_suite(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calibrate on another suite"):
        suite_of("aime24", data=file_of(tmp_path, AIME24)).problems("calibrate", 3)


def test_names() -> None:
    assert all(is_suite(suite.name) for suite in known_suites())
    assert is_suite("gym:gcd")
    assert not is_suite("gym:")
    assert not is_suite("gym:TASK"[:3])
    with pytest.raises(ConfigError, match="accepted: " + ", ".join(NAMES)):
        suite_of("aime23")
    with pytest.raises(ConfigError, match="makes its own questions"):
        suite_of("tiny", data=Path("x"))


def test_suites_lists_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "suites"])
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)


def test_any_task_of_reasoning_gym_is_a_suite() -> None:
    pytest.importorskip("reasoning_gym")
    suite = suite_of("gym:basic_arithmetic")
    first = suite.problems("report", 5)
    assert first == suite.problems("report", 9)[:5]
    grader = suite.grader()
    assert all(grader.grade(one, f"It is <answer>{one.answer}</answer>").correct for one in first)
    assert grader.grade(first[0], "<answer></answer>").extracted is None
    with pytest.raises(ConfigError, match="no such task"):
        suite_of("gym:nothing").problems("report", 5)
