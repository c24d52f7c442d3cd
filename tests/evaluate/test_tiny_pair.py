"""The pair that ships, evaluated for real on a handful of questions."""

import json
import sys
from typing import Any

import pytest

pytest.importorskip("reasoning_gym")

from glimprouter.cli.main import main

METHODS = {"small", "large", "share0", "glimpse", "random-low", "random-high"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("tiny") / "run"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "tiny", "--n", "12", "--random-p", "0.3", "--threshold", "0.3", "--out", str(out)])
    assert not ended.value.code
    card = json.loads((out / "run.json").read_text())
    assert len(card["small"]["sha256"]) == len(card["large"]["sha256"]) == 64
    return [json.loads(line) for line in (out / "answers.jsonl").read_bytes().splitlines()]


def test_all_methods_answer_every_question(answers: list[dict[str, Any]]) -> None:
    assert {answer["method"] for answer in answers} >= METHODS
    assert len({(answer["question"], answer["method"]) for answer in answers}) == len(answers)
    assert all(answer["extracted"] is not None for answer in answers)


def test_no_method_finds_the_question_in_a_cache_that_another_left(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        for side in ("small", "large"):
            usage = answer["trace"][side]
            if answer["method"] in ("small", "large") and usage["calls"]:
                assert usage["cached_tokens"] < 8


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells CPU times of children")
def test_cpu_time_holds_the_engines_and_not_much_else(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert 0 < answer["cpu_ms"] < 4 * answer["wall_ms"] + 50


def test_wall_time_is_that_of_the_trace_or_a_little_more(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert 0 < answer["trace"]["wall_ms"] <= answer["wall_ms"]


def test_small_alone_never_calls_large(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        calls = {side: answer["trace"][side]["calls"] for side in ("small", "large")}
        if answer["method"] == "small":
            assert calls["large"] == 0
        if answer["method"] == "large":
            assert calls["small"] == 0
