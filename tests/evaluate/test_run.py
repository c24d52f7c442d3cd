"""A run: interleaved, seeded, resumable at any byte, and honest about engines that fail."""

import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from glimprouter.config import Routing, Sampling
from glimprouter.engines.scripted import ScriptedEngine
from glimprouter.errors import EngineError
from glimprouter.evaluate.job import Answered, Comparison, PhaseStarted
from glimprouter.evaluate.methods import Method, methods_of
from glimprouter.evaluate.records import AnswerFile, Record
from glimprouter.evaluate.run import Runner, Slot, answer_seed, slots
from glimprouter.evaluate.unstreamed import can_complete
from glimprouter.flow import trace as traces
from glimprouter.flow.engine import Usage
from tests.evaluate.world import begun, compare, engines, grade, problems, runner, settings

ALL = ("small", "large", "share0", "glimpse", "random-low", "random-high")


def rows() -> list[Method]:
    names = ("small", "large", "share0", "glimpse", "random")
    return methods_of(names, Routing(), threshold_nats=0.9, random_p=0.4)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_bytes().splitlines()]


def keys(folder: Path) -> list[tuple[object, ...]]:
    return [(line["question"], line["method"], line["sample"]) for line in lines(folder)]


async def answered(
    todo: list[Slot], path: Path, small: ScriptedEngine, large: ScriptedEngine
) -> list[dict[str, object]]:
    with AnswerFile(path) as kept:
        async for _ in runner(small, large).run(todo, kept):
            pass
    return lines(path.parent)


def test_each_question_is_answered_by_all_methods_before_the_next_one_is_asked() -> None:
    order = list(slots(problems(4), rows(), samples=2, seed=1))
    assert len(order) == 4 * 6 * 2
    for start in range(0, len(order), 6):
        together = order[start : start + 6]
        assert len({(slot.problem.id, slot.sample) for slot in together}) == 1
        assert sorted(slot.method.name for slot in together) == sorted(ALL)


def test_no_method_has_a_place_of_its_own_in_the_order() -> None:
    order = list(slots(problems(300), rows(), samples=1, seed=1))
    first = Counter(slot.method.name for slot in order[::6])
    assert set(first) == set(ALL)
    assert min(first.values()) > 25


def test_order_follows_from_the_seed() -> None:
    one, same, other = (
        [slot.method.name for slot in slots(problems(9), rows(), samples=1, seed=seed)] for seed in (1, 1, 2)
    )
    assert one == same != other


def test_methods_share_a_seed_and_questions_and_samples_do_not() -> None:
    seeds = {answer_seed(seed, question, sample) for seed in (0, 1) for question in "ab" for sample in (0, 1)}
    assert len(seeds) == 8
    assert answer_seed(0, "a", 0) == answer_seed(0, "a", 0)


async def test_answers_are_graded_timed_and_kept_with_their_trace(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings())
    by_key = {(line["question"], line["method"]): line for line in lines(folder.path)}
    assert len(by_key) == 6 * len(ALL)
    small, routed = by_key["report/0", "small"], by_key["report/0", "glimpse"]
    assert (small["answer"], small["gold"], small["correct"], small["extracted"]) == ("4", "4", 1, "4")
    assert (routed["answer"], routed["correct"]) == ("5", 0)
    assert by_key["report/1", "glimpse"]["correct"] == 1
    assert all(isinstance(line["wall_ms"], float) and line["wall_ms"] > 0 for line in by_key.values())
    found = {trace.messages[0]["content"] for trace in traces.read(folder.answers_path)}
    assert found == {problem.question for problem in problems(6)}


async def test_glimpse_sends_the_uncertain_step_and_no_other(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings(methods=("glimpse",)))
    for trace in traces.read(folder.answers_path):
        assert [step.author for step in trace.steps][:3] == ["small", "large", "small"]


async def test_caches_hold_another_text_before_each_answer(tmp_path: Path) -> None:
    """Or the method that comes second would find the question read already."""
    small, large = engines()
    await answered(list(slots(problems(2), rows()[:2], samples=1, seed=0)), tmp_path / "answers.jsonl", small, large)
    for engine in (small, large):
        writing = [place for place, call in enumerate(engine.calls) if call.kind == "generate" and call.top != -1]
        first_of_answers = [place for place in writing if engine.calls[place - 1].kind == "prefill"]
        assert len(first_of_answers) >= 2


async def test_resuming_at_any_byte_gives_the_same_answers_and_keeps_the_times_of_the_kept(tmp_path: Path) -> None:
    asked = settings(questions=5, samples=2, random_p=None)
    whole = await compare(tmp_path / "whole", asked)
    expected, content = sorted(keys(whole.path)), whole.answers_path.read_bytes()
    rng = random.Random(11)
    for attempt in range(12):
        folder = await compare(tmp_path / f"killed{attempt}", asked, stop_after=rng.randrange(1, 40))
        file = folder.answers_path if folder.answers_path.exists() else folder.path / "pilot.jsonl"
        written = file.read_bytes()
        cut = written[: rng.randrange(len(written) + 1)]
        file.write_bytes(cut)
        kept = cut[: cut.rfind(b"\n") + 1]
        await compare(folder.path, asked)
        assert file.read_bytes().startswith(kept)
        assert sorted(keys(folder.path)) == expected
        texts = [(line["question"], line["method"], line["answer"]) for line in lines(folder.path)]
        assert sorted(texts) == sorted(
            (line["question"], line["method"], line["answer"]) for line in map(json.loads, content.splitlines())
        )


async def test_a_finished_run_asks_nothing_more(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings())
    before = folder.answers_path.read_bytes()
    small, large = engines()
    job = Comparison(runner(small, large), folder, settings(), report=problems(6), pilot=[])
    events = [event async for event in job.run()]
    assert events == [PhaseStarted("answers", 36, 36)]
    assert folder.answers_path.read_bytes() == before
    assert not small.calls
    assert not large.calls


async def test_progress_counts_what_was_there(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings(), stop_after=10)
    job = Comparison(runner(*engines()), folder, settings(), report=problems(6), pilot=[])
    started, *rest = [event async for event in job.run()]
    assert started == PhaseStarted("answers", 36, 10)
    assert sum(isinstance(event, Answered) for event in rest) == 26


async def test_random_aims_at_the_share_of_tokens_that_a_pilot_on_other_questions_had(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings(random_p=None))
    pilot = list(traces.read(folder.path / "pilot.jsonl"))
    assert {trace.messages[0]["content"].split()[0] for trace in pilot} == {"calibrate"}
    share = sum(t.thought_tokens("large") for t in pilot) / sum(t.thought_tokens() for t in pilot)
    low, high = [m.routing.random_p for m in folder.plan().methods if m.name.startswith("random")]
    assert (low + high) / 2 == pytest.approx(share, abs=1e-3)
    assert {trace.messages[0]["content"].split()[0] for trace in traces.read(folder.answers_path)} == {"report"}


async def test_a_sweep_takes_its_grid_from_the_pilot_and_runs_it_interleaved(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings(mode="sweep", methods=("large", "share0", "glimpse")))
    names = [method.name for method in folder.plan().methods]
    assert names[:3] == ["large", "share0", "glimpse"]
    assert len(names) > 4
    assert all(name.startswith("glimpse@") for name in names[3:])
    assert {line["method"] for line in lines(folder.path)[: len(names)]} == set(names)


async def test_an_engine_that_fails_ends_the_run_and_what_it_had_stays(tmp_path: Path) -> None:
    small, large = engines()
    small.fail_after_tokens = 120
    todo = list(slots(problems(20), rows(), samples=1, seed=0))
    with pytest.raises(EngineError, match="out of order"):
        await answered(todo, tmp_path / "answers.jsonl", small, large)
    done = len((tmp_path / "answers.jsonl").read_bytes().splitlines())
    assert 0 < done < len(todo)
    small.fail_after_tokens = None
    assert len(await answered(todo, tmp_path / "answers.jsonl", small, large)) == len(todo)


async def test_a_passing_fault_is_answered_again_and_counted_once(tmp_path: Path) -> None:
    small, large = engines()

    class Once(Runner):
        failed = False

        async def _record(self, slot: Slot) -> Record:
            if not self.failed:
                self.failed = True
                raise EngineError("a passing fault")
            return await super()._record(slot)

    todo = list(slots(problems(2), rows(), samples=1, seed=0))
    with AnswerFile(tmp_path / "answers.jsonl") as kept:
        outcomes = [outcome async for outcome in Once(small, large, sampling=Sampling(), grade=grade).run(todo, kept)]
    assert len(outcomes) == len(todo)


@dataclass
class Whole:
    text: str
    ids: tuple[int, ...]
    finish: str = "stop"


class Completing(ScriptedEngine):
    """Also answers in one piece, by drawing its own stream to the end."""

    asked = 0

    async def complete(self, ids: list[int], sampling: Sampling, *, max_tokens: int, usage: Usage) -> Whole:
        self.asked += 1
        async with self.generate(ids, sampling, max_tokens=max_tokens, top=0, usage=usage) as stream:
            tokens = [token async for token in stream]
        return Whole(
            "".join(token.text for token in tokens), tuple(token.id for token in tokens if token.id >= 0), "stop"
        )


async def test_large_is_asked_in_one_piece_where_its_engine_can(tmp_path: Path) -> None:
    small, streaming = engines()
    assert not can_complete(streaming)
    large = Completing(streaming._script, answer="5", name="large", vocabulary=streaming._vocabulary)
    methods = methods_of(("large", "large-unstreamed"), Routing(), threshold_nats=0.9, random_p=0)
    todo = list(slots(problems(3), methods, samples=1, seed=0))
    await answered(todo, tmp_path / "answers.jsonl", small, large)
    assert large.asked == 3
    told = list(traces.read(tmp_path / "answers.jsonl"))
    whole = [trace for trace in told if trace.policy == "large, one blocking request"]
    streamed = [trace for trace in told if trace.policy != "large, one blocking request"]
    assert {trace.answer_text for trace in whole} == {"5"}
    assert {trace.thought for trace in whole} == {trace.thought for trace in streamed}
    assert {trace.thought_tokens() for trace in whole} == {trace.thought_tokens() for trace in streamed}
    assert {trace.thought_end for trace in whole} == {"closed"}
    assert {trace.large_token_share for trace in whole} == {1.0}


async def test_a_thought_cut_in_one_piece_counts_as_cut_and_unanswered(tmp_path: Path) -> None:
    small, streaming = engines()

    class Cut(Completing):
        async def complete(self, ids: list[int], sampling: Sampling, *, max_tokens: int, usage: Usage) -> Whole:
            return replace(Whole("<think>\nAdd", (1, 2)), finish="length")

    large = Cut(streaming._script, answer="5", name="large", vocabulary=streaming._vocabulary)
    methods = methods_of(("large-unstreamed",), Routing(), threshold_nats=0.9, random_p=0)
    with AnswerFile(tmp_path / "answers.jsonl") as kept:
        todo = list(slots(problems(1), methods, samples=1, seed=0))
        (outcome,) = [one async for one in runner(small, large).run(todo, kept)]
    assert (outcome.cut, outcome.answered, outcome.correct) == ("context", False, 0)


def test_folders_of_different_runs_stay_apart(tmp_path: Path) -> None:
    assert begun(tmp_path / "a", settings()).card().settings == settings()
