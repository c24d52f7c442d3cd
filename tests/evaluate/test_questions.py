"""Questions: distinct, spread over the families, of one split only; and what is said where there can be none."""

import importlib.util
import itertools
from collections import Counter

import pytest

from glimprouter.errors import ConfigError
from glimprouter.evaluate.suites.drawing import PATIENCE, distinct, draw, require_gym, take_in_turn
from glimprouter.evaluate.suites.suite import Problem
from glimprouter.evaluate.suites.tiny import FAMILIES, split_of


def problem(text: str) -> Problem:
    return Problem(text, "sums", text, "1", {})


def test_a_question_is_asked_once_however_often_it_comes() -> None:
    stream = (problem(str(number % 7)) for number in itertools.count())
    assert [found.question for found in distinct(stream)] == ["0", "1", "2", "3", "4", "5", "6"]


def test_a_rare_question_is_waited_for() -> None:
    stream = [problem("a")] * PATIENCE + [problem("b")]
    assert [found.question for found in distinct(iter(stream))] == ["a", "b"]


def test_families_take_turns_and_the_others_stand_in_for_one_that_runs_out() -> None:
    supplies = [iter([problem(f"{name}{number}") for number in range(many)]) for name, many in (("a", 2), ("b", 9))]
    taken = [found.question for found in take_in_turn(supplies, 7)]
    assert taken == ["a0", "b0", "a1", "b1", "b2", "b3", "b4"]


def test_all_there_is_is_taken_where_more_is_wanted() -> None:
    assert len(take_in_turn([iter([problem("a")]), iter([problem("b")])], 10)) == 2


def test_fewer_questions_than_families_are_refused() -> None:
    with pytest.raises(ConfigError, match="--n is 5; accepted: 6 or more") as refused:
        draw("report", 5)
    assert refused.value.field == "n"


def test_missing_reasoning_gym_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'glimprouter\[eval\]'"):
        require_gym()


def test_no_question_is_in_two_splits_and_each_is_in_its_own() -> None:
    pytest.importorskip("reasoning_gym")
    report, calibrate = draw("report", 400), draw("calibrate", 200)
    assert {split_of(asked.question) for asked in report} == {"report"}
    assert {split_of(asked.question) for asked in calibrate} == {"calibrate"}
    assert not {asked.question for asked in report} & {asked.question for asked in calibrate}
    assert not {asked.id for asked in report} & {asked.id for asked in calibrate}


def test_questions_are_distinct_and_spread_evenly_as_far_as_families_go() -> None:
    pytest.importorskip("reasoning_gym")
    asked = draw("report", 600)
    assert len({one.question for one in asked}) == len(asked) == 600
    counts = Counter(one.family for one in asked)
    scarce = counts.pop("prime_factorization")
    assert scarce < 100 < min(counts.values())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_more_questions_only_add_to_fewer() -> None:
    pytest.importorskip("reasoning_gym")
    few, many = draw("report", 12), draw("report", 60)
    assert few == many[:12]
    assert Counter(one.family for one in few) == dict.fromkeys(FAMILIES, 2)
