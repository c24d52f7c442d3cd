"""Drafts in the loop: held back, judged aside, kept token for token or thrown away, and never paid for unseen."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.config import SIDES, Routing, Sampling
from glimprouter.engines.scripted import Line, ScriptedEngine, Vocabulary
from glimprouter.errors import ConfigError
from glimprouter.flow.answer import Event, Finished, StepFinished, Text
from glimprouter.flow.drafted import Drafted
from glimprouter.flow.engine import Token
from glimprouter.flow.judging import Choice, Grade
from glimprouter.flow.moves import Choose, Draft, Keep, Plan, Score, Write
from glimprouter.flow.request import Request, ask
from glimprouter.flow.trace import Trace, to_line
from glimprouter.flow.until import Until
from glimprouter.router import AnswerFailed, Router

ASKED = "Reply with one digit"


@dataclass(frozen=True)
class Planned:
    """A policy made of one plan, for tests."""

    steps: Callable[[Trace], Plan]
    seen: list[Any] = field(default_factory=list)

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        return self.steps(trace)

    def describe(self) -> str:
        return "planned"


class Grading(ScriptedEngine):
    """Writes a script, and replies with a grade or letter where a question is put after its thought."""

    def __init__(self, script: Any, reply: Callable[[str], str], **options: Any) -> None:
        super().__init__(script, **options)
        self._reply = reply
        self.asked: list[str] = []

    @asynccontextmanager
    async def generate(
        self, ids: Sequence[int], sampling: Sampling, **options: Any
    ) -> AsyncIterator[AsyncIterator[Token]]:
        text = await self.decode(ids)
        if not text.endswith(("Grade: ", "Best: ")):
            async with super().generate(ids, sampling, **options) as tokens:
                yield tokens
            return
        self.asked.append(text)
        options["usage"].requests, options["usage"].prompt_tokens = 1, len(ids)
        options["usage"].generated_tokens = 1
        [id_] = await self.encode(self._reply(text))

        async def reply() -> AsyncIterator[Token]:
            assert (options["max_tokens"], sampling.temperature) == (1, 0.0)
            yield Token(id_, "", math.log(0.75), ((id_, math.log(0.75)), (10**6, math.log(0.25))))
            yield Token(-1, "", finish="length")

        yield reply()


def lines(name: str, count: int = 3) -> list[Line]:
    return [Line(f"{name} writes step {place} here.\n\n", 0.5) for place in range(count)]


def pair(reply: Callable[[str], str] = lambda text: "9", **options: Any) -> tuple[Grading, Grading]:
    options = {"vocabulary": Vocabulary(), "answer": "42"} | options
    small = Grading(lines("Small"), reply, name="quick", **options)
    return small, Grading(lines("Large"), reply, name="wise", **options)


def question(**routing: Any) -> Request:
    return ask("Why?", routing=Routing(**{"warm": False, "min_step_tokens": 0} | routing))


def spec_reason(trace: Trace) -> Plan:
    step: Drafted = yield Draft("small")
    grade: Grade = yield Score(step)
    return Keep(step) if grade.likeliest >= 8 else Write("large")


async def events_of(router: Router, request: Request, policy: Planned | None = None) -> list[Event]:
    return [event async for event in router.stream(request, policy=policy)]


def authors(trace: Trace) -> str:
    return "".join(step.author[0] for step in trace.steps)


async def test_kept_drafts_are_one_open_stream_and_read_as_if_written() -> None:
    small, large = pair()
    drafted = await Router(small, large).answer(question(answer_by="small"), policy=Planned(spec_reason))
    plain = await Router(*pair()).answer(question(policy="small", answer_by="small"))
    assert [step.text for step in drafted.steps] == [step.text for step in plain.steps]
    assert [step.ids for step in drafted.steps] == [step.ids for step in plain.steps]
    assert [step.end for step in drafted.steps] == [step.end for step in plain.steps]
    assert drafted.answer_text == plain.answer_text
    assert sum(call.kind == "generate" for call in small.calls) == 1
    assert drafted.small.discarded_tokens == 0
    assert drafted.small.new_tokens == plain.small.new_tokens
    assert all(step.drafts[0].kept and not step.drafts[0].text for step in drafted.steps)


async def test_rejected_draft_is_written_anew_and_its_tokens_are_discarded() -> None:
    small, large = pair(lambda text: "2" if "step 1" in text.rpartition("Small")[2] else "9")
    trace = await Router(small, large).answer(question(answer_by="small"), policy=Planned(spec_reason))
    assert authors(trace) == "slss"
    rejected = trace.steps[1].drafts[0]
    assert (rejected.kept, rejected.text, rejected.author) == (False, "Small writes step 1 here.\n\n", "small")
    assert trace.small.discarded_tokens == len(rejected.ids) == rejected.tokens == 6
    assert trace.small.new_tokens == sum(len(step.ids) for step in trace.steps if step.author == "small") + 2
    assert "Small writes step 1" not in trace.thought
    judgement = trace.steps[1].judgements[0]
    assert (judgement.kind, judgement.judge, judgement.value, judgement.drafts) == ("score", "large", 2, [0])
    assert judgement.covered == pytest.approx(0.75)
    assert trace.steps[1].glimpse is not None, "the draft was a glimpse as well"


async def test_text_of_a_draft_is_shown_to_nobody_before_the_verdict() -> None:
    shown: list[str] = []
    seen_at_score: list[str] = []

    def plan(trace: Trace) -> Plan:
        step: Drafted = yield Draft("small")
        seen_at_score.append("".join(shown))
        return Keep(step) if len(trace.steps) != 1 else Write("large")

    async for event in Router(*pair()).stream(question(), policy=Planned(plan)):
        shown += [event.text] if isinstance(event, Text) else []
    assert seen_at_score[:3] == [
        "",
        "Small writes step 0 here.\n\n",
        "Small writes step 0 here.\n\nLarge writes step 1 here.\n\n",
    ]
    assert "Small writes step 1" not in "".join(shown)


async def test_judge_reads_the_thought_the_draft_and_the_question_and_its_cost_is_counted() -> None:
    small, large = pair()
    trace = await Router(small, large).answer(question(), policy=Planned(spec_reason))
    assert large.asked[1].index("step 0") < large.asked[1].index("step 1") < large.asked[1].index(ASKED)
    assert "step 2" not in large.asked[1]
    assert large.asked[1].count("Why?") == 1
    assert trace.large.aside_calls == trace.large.aside_tokens == len(trace.steps) == 4
    assert trace.large.prompt_tokens >= sum(one.prompt_tokens for s in trace.steps for one in s.judgements)
    assert trace.large.new_tokens == len(trace.answer.ids if trace.answer else [])


async def test_draft_that_closes_the_thought_is_kept_with_its_tag_and_judged_without() -> None:
    small, large = pair()
    trace = await Router(small, large).answer(question(), policy=Planned(spec_reason))
    assert trace.steps[-1].text.endswith("</think>")
    assert trace.thought_end == "closed"
    assert large.asked[-1].count("</think>") == 1, "the judge's own, before its grade"
    assert trace.answer_text == "42"


async def test_earlier_of_several_drafts_can_be_kept_and_is_what_the_writer_goes_on_from() -> None:
    turns = iter(["A first.\n\n", "A second.\n\n", "A third.\n\n"])

    def script(written: str) -> str:
        if not written:
            return "<think>\n"
        if "</think>" in written:
            return "" if written.endswith("42") else "\n\n42"
        return "</think>" if "first" in written else next(turns)

    small, large = pair()
    small = Grading(script, lambda text: "B", name="quick", vocabulary=Vocabulary())

    def plan(trace: Trace) -> Plan:
        if trace.steps:
            return Write("small")
        steps: list[Drafted] = []
        for _ in range(3):
            steps += [(yield Draft("small"))]
        chosen: Choice = yield Choose((steps[1], steps[0]), "large")
        return Keep((steps[1], steps[0])[chosen.index or 0])

    large._reply = lambda text: "B"
    trace = await Router(small, large).answer(question(answer_by="small"), policy=Planned(plan))
    assert [step.text for step in trace.steps] == ["A first.\n\n", "</think>"]
    assert [draft.kept for draft in trace.steps[0].drafts] == [True, False, False]
    assert trace.steps[0].judgements[0].drafts == [1, 0]
    assert "\nA: A second.\nB: A first." in large.asked[0]
    kept = len(trace.steps[0].ids)
    assert trace.small.discarded_tokens == sum(draft.tokens for draft in trace.steps[0].drafts) - kept
    assert await small.decode(small.calls[-1].ids) == await small.decode(small.calls[0].ids) + "A first.\n\n"
    seeds = [call.sampling.seed for call in small.calls if call.kind == "generate"][:3]
    assert len(set(seeds)) == 3, "each draft is drawn from a seed of its own"


async def test_draft_of_each_model_can_stand_against_the_other() -> None:
    small, large = pair()

    def plan(trace: Trace) -> Plan:
        first: Drafted = yield Draft("small")
        second: Drafted = yield Draft("large")
        return Keep(second if len(trace.steps) % 2 else first)

    trace = await Router(small, large).answer(question(), policy=Planned(plan))
    assert authors(trace) == "slsl"
    assert trace.thought.count("writes step") == 3
    for side in SIDES:
        drafts = [draft for step in trace.steps for draft in step.drafts if draft.author == side]
        thrown = sum(draft.tokens for draft in drafts if not draft.kept)
        assert trace.usage_of(side).discarded_tokens == thrown


async def test_models_of_different_vocabularies_hear_of_a_kept_draft_as_text() -> None:
    small = Grading(lines("Small"), lambda text: "9", name="quick", vocabulary=Vocabulary())
    large = Grading(lines("Large"), lambda text: "9", name="wise", vocabulary=Vocabulary(500_000), answer="42")
    trace = await Router(small, large).answer(question(), policy=Planned(spec_reason))
    assert authors(trace) == "ssss"
    assert (await large.decode(large.calls[-1].ids)).count("Small writes step") == 3


async def test_budget_holds_for_drafts() -> None:
    trace = await Router(*pair()).answer(question(max_thinking_tokens=8), policy=Planned(spec_reason))
    assert trace.thought_end == "thinking_budget"
    assert trace.thought_tokens() == 8
    assert trace.steps[1].end == "budget"


async def test_grade_that_is_none_is_the_lowest() -> None:
    trace = await Router(*pair(lambda text: "Well")).answer(question(), policy=Planned(spec_reason))
    assert authors(trace) == "llll"
    assert {step.judgements[0].covered for step in trace.steps} == {0.0}


async def test_no_room_for_the_question_is_no_grade_and_no_failure() -> None:
    large = Grading(lines("Large"), lambda text: "9", name="wise", vocabulary=Vocabulary(), context_tokens=64)
    small = Grading(lines("Small"), lambda text: "9", name="quick", vocabulary=Vocabulary())
    trace = await Router(small, large).answer(question(), policy=Planned(spec_reason))
    assert trace.error is None
    assert large.asked == []


async def test_failure_inside_a_draft_counts_its_tokens_as_discarded() -> None:
    small, large = pair(fail_after_tokens=None)
    small.fail_after_tokens = 9
    with pytest.raises(AnswerFailed) as failed:
        await Router(small, large).answer(question(), policy=Planned(spec_reason))
    trace = failed.value.trace
    standing = sum(len(step.ids) for step in trace.steps)
    assert (trace.small.new_tokens, standing) == (6, 6)
    assert trace.small.discarded_tokens == 9 - standing
    to_line(trace)


async def test_draft_of_an_earlier_step_cannot_be_kept() -> None:
    earlier: list[Drafted] = []

    def plan(trace: Trace) -> Plan:
        earlier.append((yield Draft("small")))
        return Keep(earlier[0])

    with pytest.raises(ValueError, match="draft of another step"):
        await Router(*pair()).answer(question(), policy=Planned(plan))


async def test_reward_without_a_reward_model_is_refused_before_anything_is_written() -> None:
    small, large = pair()
    with pytest.raises(ConfigError, match="--reward"):
        await Router(small, large).answer(question(policy="rsd"))
    assert small.calls == large.calls == []


class TestPieces:
    async def test_large_takes_over_for_some_tokens_within_a_step(self) -> None:
        def plan(trace: Trace) -> Plan:
            yield from ()
            return Write("large", Until(tokens=2)) if not trace.steps else Write("small")

        trace = await Router(*pair()).answer(question(), policy=Planned(plan))
        assert trace.steps[0].text == "Large writes"
        assert trace.steps[0].end == "tokens"
        assert trace.steps[1].author == "small"

    async def test_cue_ends_a_piece_with_the_token_that_shows_it_whole(self) -> None:
        def plan(trace: Trace) -> Plan:
            yield from ()
            return Write("large", Until(cues=("large", "Wri")))

        trace = await Router(*pair()).answer(question(), policy=Planned(plan))
        assert [step.text for step in trace.steps[:2]] == ["Large writes", " step 0 here.\n\n"]
        assert [step.end for step in trace.steps[:2]] == ["cue", "boundary"]
        assert trace.whole_steps()[0][0] == "Large writes step 0 here.\n\n"

    async def test_loop_is_noticed_over_steps_that_were_written_in_pieces(self) -> None:
        small = Grading(["Go on and on.\n\n"] * 30, lambda text: "9", name="quick", vocabulary=Vocabulary())

        def plan(trace: Trace) -> Plan:
            yield from ()
            return Write("small", Until(tokens=2))

        trace = await Router(small, pair()[1]).answer(question(), policy=Planned(plan))
        assert trace.thought_end == "loop"


@given(st.lists(st.sampled_from(["keep", "large", "small", "second"]), min_size=4, max_size=4), st.booleans())
async def test_every_token_drawn_is_in_the_text_or_counted_as_discarded(verdicts: list[str], overlap: bool) -> None:
    small, large = pair()

    def plan(trace: Trace) -> Plan:
        verdict = verdicts[len(trace.steps) % 4]
        first: Drafted = yield Draft("small")
        if verdict == "second":
            yield Draft("small")
        yield Score(first)
        return Keep(first) if verdict in ("keep", "second") else Write("large" if verdict == "large" else "small")

    events = await events_of(Router(small, large), question(overlap=overlap), Planned(plan))
    trace = next(event.trace for event in events if isinstance(event, Finished))
    shown = "".join(event.text for event in events if isinstance(event, Text) and event.part == "thought")
    assert shown.strip("\n") == trace.thought
    assert sum(isinstance(event, StepFinished) for event in events) == len(trace.steps)
    for side, engine in zip(SIDES, (small, large), strict=True):
        usage = trace.usage_of(side)
        assert usage.new_tokens + usage.discarded_tokens == sum(call.taken for call in engine.calls)
        assert usage.aside_tokens == (len(trace.steps) if side == "large" else 0)
    for step in trace.steps:
        assert await small.decode(step.ids) == step.text
