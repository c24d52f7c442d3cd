"""A run within bounds: several answers at once, budgets, and how far it has come."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path

import pytest

from glimprouter.cli.progress import LINE_EVERY_S, Lines
from glimprouter.config import Sampling
from glimprouter.errors import ConfigError, EngineError
from glimprouter.evaluate.budget import Budget, BudgetSpent, Spending
from glimprouter.evaluate.cpu import CpuMeter
from glimprouter.evaluate.job import Answered, PhaseStarted
from glimprouter.evaluate.records import AnswerFile, Record
from glimprouter.evaluate.run import Runner, Slot, slots
from tests.evaluate.test_run import keys, rows
from tests.evaluate.world import compare, engines, grade, outcome, problems, settings


class Watched(Runner):
    """Knows how many answers were under way at once."""

    now = most = 0

    async def _record(self, slot: Slot) -> Record:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            return await super()._record(slot)
        finally:
            self.now -= 1


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_so_many_answers_are_under_way_as_were_asked_for(concurrency: int, tmp_path: Path) -> None:
    made = Watched(*engines(), sampling=Sampling(), grade=grade, meter=CpuMeter(), concurrency=concurrency)
    todo = list(slots(problems(6), rows(), samples=1, seed=0))
    with AnswerFile(tmp_path / "answers.jsonl") as kept:
        outcomes = [one async for one in made.run(todo, kept)]
    assert made.most == concurrency
    assert len({one.key for one in outcomes}) == len(todo)
    assert {one.cpu_ms is None for one in outcomes} == {concurrency > 1}


async def test_several_at_once_answer_as_one_at_a_time(tmp_path: Path) -> None:
    texts = []
    for concurrency in (1, 5):
        folder = await compare(tmp_path / str(concurrency), settings(concurrency=concurrency))
        lines = map(json.loads, folder.answers_path.read_bytes().splitlines())
        texts.append(sorted((line["question"], line["method"], line["answer"], line["seed"]) for line in lines))
    assert texts[0] == texts[1]


async def test_a_failure_beside_other_answers_loses_none_of_those_that_came(tmp_path: Path) -> None:
    small, large = engines()
    small.fail_after_tokens = 300
    made = Runner(small, large, sampling=Sampling(), grade=grade, concurrency=4)
    todo = list(slots(problems(20), rows(), samples=1, seed=0))
    with AnswerFile(tmp_path / "answers.jsonl") as kept:
        with pytest.raises(EngineError):
            [one async for one in made.run(todo, kept)]
        assert 0 < len(kept.outcomes) < len(todo)
    assert len(keys(tmp_path)) == len(kept.outcomes)
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_budget_of_large_tokens_stops_between_answers_and_the_run_goes_on_later(tmp_path: Path) -> None:
    asked = settings(questions=8)
    with pytest.raises(BudgetSpent, match="--max-large-tokens 150 are used up"):
        await compare(tmp_path / "run", asked, budget=Budget(large_tokens=150))
    assert 0 < len(keys(tmp_path / "run")) < 8 * 6
    await compare(tmp_path / "run", asked)
    found = keys(tmp_path / "run")
    assert len(found) == len(set(found)) == 8 * 6


def test_a_budget_of_time_is_of_this_start() -> None:
    now = [100.0]
    spending = Spending(Budget(minutes=2), clock=lambda: now[0])
    spending.check()
    now[0] += 119
    spending.check()
    now[0] += 1
    with pytest.raises(BudgetSpent, match="--max-minutes 2 are over"):
        spending.check()


def test_thrown_away_tokens_count_too() -> None:
    spending = Spending(Budget(large_tokens=100))
    spending.count(outcome("a", "glimpse", large_tokens=99))
    with pytest.raises(BudgetSpent):
        spending.check()


@pytest.mark.parametrize("bad", [{"minutes": 0.0}, {"large_tokens": -1}, {"minutes": float("nan")}])
def test_a_budget_of_nothing_is_bad_input(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="accepted: above 0"):
        Budget(**bad)  # type: ignore[arg-type]


async def test_random_positions_follow_patterns_of_other_questions_of_the_family(tmp_path: Path) -> None:
    asked = settings(methods=("glimpse", "random-positions"))
    folder = await compare(tmp_path / "run", asked)
    by_method: dict[str, set[str]] = defaultdict(set)
    for one in folder.outcomes():
        by_method[one.key.method].add(one.authors)
    assert by_method["random-positions"] == by_method["glimpse"] == {"sLss"}
    assert (folder.path / "pilot.jsonl").exists()


async def test_random_runs_at_all_probabilities_of_the_grid(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings(questions=2, methods=("large",), random_grid=(0.25, 0.75)))
    assert [method.name for method in folder.plan().methods] == ["large", "random@0.25", "random@0.75"]


def test_lines_tell_rate_and_time_left_of_this_start() -> None:
    now = [0.0]
    lines = Lines(clock=lambda: now[0])
    answered = Answered(outcome("a", "large"))
    assert lines.line(PhaseStarted("answers", 1000, 400)) is None
    assert lines.line(answered) is None
    now[0] = LINE_EVERY_S
    assert lines.line(answered) == "answers: 402 of 1000, 0.1/s, 150 min left"
    assert lines.line(answered) is None
