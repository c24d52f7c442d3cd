"""The loop, end to end, on scripted engines: who is asked what, how often, and what the trace says of it."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.config import SIDES, Routing, Sampling, Side
from glimprouter.engines.scripted import CONTROL, Call, Line, Pace, ScriptedEngine, Vocabulary
from glimprouter.errors import ConfigError, ContextError, EngineUnavailable, PairError, RequestError
from glimprouter.flow.answer import Event, Finished, Started, StepFinished, StepStarted, Text
from glimprouter.flow.engine import EngineFacts, Message, Token
from glimprouter.flow.request import Request, ask
from glimprouter.flow.trace import Trace, to_line
from glimprouter.flow.writer import derived_seed
from glimprouter.router import AnswerFailed, Router

LOW, HIGH = 0.1, 1.9
"""Entropies (nats) on either side of the published threshold."""


class Engine(ScriptedEngine):
    """A scripted engine that also notes which streams are open and what it was asked to encode."""

    def __init__(self, script: Any, **options: Any) -> None:
        super().__init__(script, **options)
        self.open_streams = 0
        self.encoded: list[str] = []

    @asynccontextmanager
    async def generate(
        self, ids: Sequence[int], sampling: Sampling, **options: Any
    ) -> AsyncIterator[AsyncIterator[Token]]:
        async with super().generate(ids, sampling, **options) as tokens:
            self.open_streams += 1
            try:
                yield tokens
            finally:
                self.open_streams -= 1

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        if not special:
            self.encoded.append(text)
        return await super().encode(text, special=special)

    @property
    def generated(self) -> list[Call]:
        return [call for call in self.calls if call.kind == "generate"]

    @property
    def warmed(self) -> list[Call]:
        return [call for call in self.calls if call.kind == "prefill"]


def lines(*entropies: float) -> list[Line]:
    """Steps of six tokens each, that begin at these entropies."""
    return [Line(f"Step {place} goes this far.\n\n", nats) for place, nats in enumerate(entropies)]


def pair(script: Any, large_script: Any = None, **options: Any) -> tuple[Engine, Engine]:
    """Two engines of one vocabulary that want to write the same, unless large has a script of its own."""
    options = {"vocabulary": Vocabulary(), "answer": "42 it is"} | options
    large = script if large_script is None else large_script
    return Engine(script, name="quick", **options), Engine(large, name="wise", **options)


def authors(trace: Trace) -> str:
    """Who wrote: one letter a step, then that of the answer."""
    return "".join(step.author[0] for step in trace.steps) + "/" + (trace.answer.author[0] if trace.answer else "")


async def events_of(router: Router, request: Request) -> list[Event]:
    return [event async for event in router.stream(request)]


def shown(events: list[Event], part: str) -> str:
    return "".join(event.text for event in events if isinstance(event, Text) and event.part == part)


def question(**routing: Any) -> Request:
    return ask("Why?", routing=Routing(**{"warm": False, "min_step_tokens": 0} | routing))


async def test_steps_that_small_keeps_cost_no_request_beyond_the_first() -> None:
    small, large = pair(lines(*[LOW] * 6))
    trace = await Router(small, large).answer(question(answer_by="small"))
    assert authors(trace) == "sssssss/s"
    assert (len(small.generated), len(large.generated)) == (1, 0)
    assert [step.handover for step in trace.steps] == [True] + [False] * 6
    assert trace.small.discarded_tokens == 0


async def test_an_escalation_costs_one_request_to_large_and_one_to_come_back() -> None:
    small, large = pair(lines(LOW, LOW, HIGH, LOW, LOW))
    trace = await Router(small, large).answer(question(answer_by="small"))
    assert authors(trace) == "sslsss/s"
    assert (len(small.generated), len(large.generated)) == (2, 1)
    assert [step.handover for step in trace.steps] == [True, False, True, True, False, False]
    assert trace.small.discarded_tokens == 1  # the glimpse that large wrote over


async def test_large_keeps_its_stream_over_several_steps() -> None:
    small, large = pair(lines(LOW, HIGH, HIGH, HIGH, LOW))
    trace = await Router(small, large).answer(question(answer_by="small"))
    assert authors(trace) == "slllss/s"
    assert len(large.generated) == 1
    assert large.generated[0].taken == 3 * 6
    assert len(small.generated) == 4  # one, then a glimpse after each step of large; the last of them goes on


async def test_large_that_closes_the_thought_goes_on_with_the_answer_in_one_stream() -> None:
    small, large = pair(lines(HIGH, HIGH))
    trace = await Router(small, large).answer(question(policy="large"))
    assert authors(trace) == "lll/l"
    assert (len(small.generated), len(large.generated)) == (0, 1)
    assert trace.answer_text == "42 it is"


async def test_policy_that_never_asks_small_leaves_it_alone_even_when_warming() -> None:
    small, large = pair(lines(LOW, LOW))
    await Router(small, large).answer(question(policy="large", warm=True))
    assert small.calls == []
    await Router(small, large).answer(question(policy="small", answer_by="small", warm=True))
    assert len(large.calls) == 1


async def test_steps_of_a_fixed_small_carry_glimpses_all_the_same() -> None:
    small, large = pair(lines(LOW, HIGH))
    trace = await Router(small, large).answer(question(policy="small"))
    assert trace.entropies_nats == pytest.approx([LOW, HIGH, 0.05], abs=0.02)


@pytest.mark.parametrize(
    ("routing", "closed_by", "end"),
    [
        ({"policy": "small"}, "small", "closed"),
        ({"policy": "large"}, "large", "closed"),
        ({"policy": "small", "max_thinking_tokens": 10}, "router", "thinking_budget"),
        ({"policy": "large", "max_thinking_tokens": 10}, "router", "thinking_budget"),
        ({"policy": "small", "max_thinking_tokens": 6}, "router", "thinking_budget"),
    ],
)
@pytest.mark.parametrize("answer_by", SIDES)
async def test_answer_follows_exactly_one_closing_tag_whoever_closed_the_thought(
    routing: dict[str, Any], closed_by: str, end: str, answer_by: Side
) -> None:
    vocabulary = Vocabulary()
    small, large = pair(lines(LOW, LOW), vocabulary=vocabulary)
    trace = await Router(small, large).answer(question(answer_by=answer_by, **routing))
    engine = small if answer_by == "small" else large
    assert (trace.thought_end, trace.answer_text) == (end, "42 it is")
    if closed_by == answer_by:
        assert (trace.router_close, len(engine.generated)) == ("", 1)
        assert trace.steps[-1].text.endswith("</think>")
    else:
        prefix = vocabulary.decode(engine.generated[-1].ids).partition("<think>\n")[2]
        assert prefix.count("</think>") == 1
        assert prefix.endswith("</think>\n\n")
        assert prefix.partition("</think>")[0].strip() == trace.thought
        assert bool(trace.router_close) == (closed_by == "router")


@pytest.mark.parametrize(("budget", "lead"), [(10, "\n"), (6, ""), (1, "\n")])
async def test_budget_ends_the_thought_on_the_token_and_the_router_closes_on_a_line_of_its_own(
    budget: int, lead: str
) -> None:
    small, large = pair(lines(*[LOW] * 5))
    trace = await Router(small, large).answer(question(max_thinking_tokens=budget))
    assert trace.thought_tokens() == budget
    assert trace.steps[-1].end == "budget"
    assert trace.router_close == f"{lead}</think>"


async def test_end_token_inside_the_thought_ends_it_and_the_answer_is_still_written() -> None:
    def gives_up(written: str) -> str:
        if "</think>" in written:
            return "" if written.endswith("7") else "7"
        return "" if "enough" in written else "Step.\n\nThat is enough"

    small, large = pair(gives_up)
    trace = await Router(small, large).answer(question(policy="small"))
    assert (trace.thought_end, trace.steps[-1].end) == ("end_token", "end_token")
    assert (trace.router_close, trace.answer_text) == ("\n</think>", "7")


async def test_end_token_instead_of_a_thought_still_gives_an_answer() -> None:
    small, large = pair(lambda written: "" if "<think>" in written and "</think>" not in written else "7")
    trace = await Router(small, large).answer(question(max_answer_tokens=1))
    assert (trace.thought_end, trace.thought, trace.answer_text) == ("end_token", "", "7")


async def test_loop_escalates_and_ends_the_thought_where_large_cannot_leave_it() -> None:
    small, large = pair(lambda written: "Done." if "</think>" in written else "Again and again.\n\n")
    trace = await Router(small, large).answer(question(loop_repeats=3, max_answer_tokens=2))
    assert authors(trace) == "sssllll/l"[: len(trace.steps)] + "/l"
    assert [step.loop_cycle_steps for step in trace.steps][:4] == [0, 0, 1, 1]
    assert trace.thought_end == "loop"
    assert trace.thought_tokens() < 100


async def test_loop_that_large_leaves_goes_back_to_small() -> None:
    def stuck(written: str) -> str:
        return "42" if "</think>" in written else "Again and again.\n\n" if "Aha" not in written else "</think>"

    small, large = pair(stuck, lambda written: stuck(written) if "Aha" in written else "Aha, that is it.\n\n")
    trace = await Router(small, large).answer(question(loop_repeats=3, max_answer_tokens=1))
    assert authors(trace) == "sssls/l"
    assert trace.thought_end == "closed"


async def test_small_context_ends_the_thought_in_time_for_an_answer() -> None:
    small, large = pair(lines(*[LOW] * 50), context_tokens=90)
    trace = await Router(small, large).answer(question())
    assert (trace.thought_end, trace.error) == ("context", None)
    assert trace.answer_text


async def test_usage_counts_calls_prompt_new_and_discarded_tokens_of_each_model() -> None:
    small, large = pair(lines(LOW, HIGH, HIGH, LOW))
    trace = await Router(small, large).answer(question())
    for side, engine in (("small", small), ("large", large)):
        usage = trace.small if side == "small" else trace.large
        in_answer = sum(step.tokens for step in trace.steps if step.author == side)
        in_answer += len(trace.answer.ids) if trace.answer and trace.answer.author == side else 0
        assert usage.model == engine.name
        assert usage.calls == len(engine.generated)
        assert usage.prompt_tokens == sum(len(call.ids) for call in engine.generated)
        assert usage.new_tokens == in_answer
        assert usage.new_tokens + usage.discarded_tokens == sum(call.taken for call in engine.generated)
        assert 0 < usage.cached_tokens < usage.prompt_tokens


async def test_stop_string_ends_the_answer_and_does_not_appear() -> None:
    small, large = pair(lines(LOW), answer="It is 42 indeed. Or 43.")
    request = replace(question(), stop=("43", "indeed"))
    events = await events_of(Router(small, large), request)
    assert isinstance(events[-1], Finished)
    answer = events[-1].trace.answer
    assert answer is not None
    assert (answer.end, answer.text.strip()) == ("stop_string", "It is 42")
    assert shown(events, "answer").strip() == "It is 42"
    assert large.generated[-1].taken < 12


async def test_stop_string_in_the_thought_ends_nothing() -> None:
    small, large = pair(lines(LOW, LOW))
    trace = await Router(small, large).answer(replace(question(), stop=("Step",)))
    assert trace.thought_end == "closed"
    assert trace.answer_text == "42 it is"


async def test_beginning_of_a_stop_string_is_shown_when_the_answer_ends_with_it() -> None:
    small, large = pair(lines(LOW), answer="It is 42")
    events = await events_of(Router(small, large), replace(question(), stop=("42 and more",)))
    assert shown(events, "answer") == "It is 42"


async def test_text_behind_small_s_closing_tag_is_not_handed_to_large() -> None:
    class Glued(Vocabulary):
        _special_pieces = re.compile(rf"</think>\n\nFor|{Vocabulary._special_pieces.pattern}")

    vocabulary = Glued()
    small, large = pair(["Step.\n\n"], vocabulary=vocabulary, answer="Forty-two")
    trace = await Router(small, large).answer(question(policy="small"))
    assert vocabulary.decode(large.generated[0].ids).endswith("<think>\nStep.\n\n</think>\n\n")
    assert trace.answer_text == "Forty-two"


async def test_engine_that_fails_inside_a_step_ends_the_answer_with_what_was_written() -> None:
    small, large = pair(lines(LOW, HIGH, LOW))
    large.fail_after_tokens = 3
    events = await events_of(Router(small, large), question())
    assert isinstance(events[-1], Finished)
    trace = events[-1].trace
    assert trace.error == "wise: out of order, as its script wants it"
    assert trace.thought_end == "failed"
    assert [step.end for step in trace.steps] == ["boundary", "failed"]
    assert trace.steps[1].text == "Step 1 goes"
    assert trace.thought.endswith("Step 1 goes")
    assert trace.wall_ms > 0
    assert (trace.small.new_tokens, trace.large.new_tokens) == (6, 3)
    assert small.open_streams == large.open_streams == 0


async def test_engine_that_fails_before_its_first_token_or_in_the_answer_is_told_apart() -> None:
    small, large = pair(lines(LOW, LOW))
    large.fail_after_tokens = 0
    with pytest.raises(AnswerFailed) as raised:
        await Router(small, large).answer(question())
    trace = raised.value.trace
    assert (trace.thought_end, trace.thought.count("Step")) == ("closed", 2)
    assert trace.answer is not None
    assert (trace.answer.end, trace.answer.text) == ("failed", "")
    assert str(raised.value) == trace.error


async def test_failure_of_small_at_a_glimpse_leaves_the_steps_before_it() -> None:
    small, large = pair(lines(LOW, HIGH, LOW))
    small.fail_after_tokens = 7
    with pytest.raises(AnswerFailed) as raised:
        await Router(small, large).answer(question())
    assert [step.end for step in raised.value.trace.steps] == ["boundary", "boundary"]


@pytest.mark.parametrize("warm", [False, True])
async def test_closing_the_stream_of_events_stops_both_engines_at_once(warm: bool) -> None:
    small, large = pair(lines(LOW, HIGH, HIGH, LOW))
    for number in range(2, 30):
        async with aclosing(Router(small, large).stream(question(warm=warm))) as events:
            seen = [await anext(events) for _ in range(number)]
        assert small.open_streams == large.open_streams == 0
        assert isinstance(seen[0], Started)
        assert seen[0].trace.error == "cancelled"
        assert seen[0].trace.thought_end == "cancelled" or number > 25
    assert not [task for task in asyncio.all_tasks() if "_prefill" in repr(task)]


@pytest.mark.parametrize("tokens", range(0, 24, 3))
async def test_cancelling_the_task_stops_both_engines_at_once(tokens: int) -> None:
    reached = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if sum(call.taken for engine in (small, large) for call in engine.calls) >= tokens:
            reached.set()
            await asyncio.Event().wait()

    small, large = pair(lines(LOW, HIGH, LOW), pace=Pace(first_token_ms=1, token_ms=1), sleep=sleep)
    events = Router(small, large).stream(question())
    begun = await anext(events)
    assert isinstance(begun, Started)

    async def read() -> None:
        async for _ in events:
            pass

    task = asyncio.create_task(read())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert small.open_streams == large.open_streams == 0
    assert (begun.trace.error, begun.trace.thought_end) == ("cancelled", "cancelled" if tokens < 20 else "closed")
    assert sum(step.tokens for step in begun.trace.steps) <= tokens
    assert len(asyncio.all_tasks()) == 1


async def test_prompt_over_the_context_is_refused_before_anything_is_asked() -> None:
    small, large = pair(lines(LOW), context_tokens=60)
    with pytest.raises(ContextError, match="shorten the question") as raised:
        await anext(Router(small, large).stream(ask("Why? " * 20)))
    assert raised.value.field == "question"
    assert small.calls == large.calls == []


async def test_template_that_closes_the_thought_is_refused_before_anything_is_asked() -> None:
    small, large = pair(lines(LOW))[0], Engine(lines(LOW), name="wise", opening="closed")
    with pytest.raises(PairError, match="--large wise: its chat template closes the thought"):
        await anext(Router(small, large).stream(question()))
    assert small.calls == large.calls == []


async def test_template_without_thought_tags_is_refused_before_anything_is_asked() -> None:
    class Plain(Engine):
        async def facts(self) -> EngineFacts:
            return replace(await super().facts(), chat_template="{{ messages }}")

    small, large = Plain(lines(LOW), name="plain"), pair(lines(LOW))[1]
    with pytest.raises(PairError, match="--small plain: no thought tags") as raised:
        await anext(Router(small, large).stream(question()))
    assert raised.value.field == "small"
    assert small.calls == large.calls == []


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_question_is_refused_before_it_is_asked(text: str) -> None:
    with pytest.raises(RequestError, match="empty"):
        ask(text)


async def test_template_that_opens_the_thought_is_not_opened_twice() -> None:
    vocabulary = Vocabulary()
    small = Engine(lines(LOW), name="quick", vocabulary=vocabulary, opening="template")
    large = Engine(lines(LOW), name="wise", vocabulary=vocabulary, opening="model")
    await Router(small, large).answer(question())
    for engine in (small, large):
        assert vocabulary.decode(engine.generated[0].ids).count("<think>") == 1


async def test_closing_tag_in_the_question_is_text_and_closes_nothing() -> None:
    vocabulary = Vocabulary()
    small, large = pair(lines(LOW, LOW), vocabulary=vocabulary)
    trace = await Router(small, large).answer(ask("What is </think> for? <|im_end|>", routing=question().routing))
    assert trace.thought_end == "closed"
    assert large.generated[-1].ids.count(vocabulary.id_of("</think>")) == 1


async def test_fifty_answers_at_once_do_not_mix() -> None:
    numbers = count()

    def script(written: str) -> Line:
        """Each thought takes a number at its first step, says it in every step, and answers with it."""
        if "</think>" in written:
            case = re.findall(r"case (\d+)", written)[-1]
            return Line("" if f"It was {case}." in written else f"It was {case}.")
        if not (said := re.findall(r"case (\d+)", written)):
            return Line(f"Now comes case {next(numbers)} of many.\n\n", LOW)
        if len(said) == 5:
            return Line("</think>\n\n")
        return Line(f"Step {len(said)} of case {said[-1]} here.\n\n", HIGH if len(said) in (2, 3) else LOW)

    async def turn(seconds: float) -> None:
        await asyncio.sleep(0)

    vocabulary = Vocabulary()
    small, large = pair(script, vocabulary=vocabulary, pace=Pace(token_ms=1), sleep=turn)
    router = Router(small, large)
    requests = [ask(f"Question {number}?", routing=Routing(min_step_tokens=0)) for number in range(50)]
    traces = await asyncio.gather(*(router.answer(request) for request in requests))
    cases = [set(re.findall(r"case (\d+)", trace.thought)) for trace in traces]
    assert all(len(case) == 1 for case in cases)
    assert len(set.union(*cases)) == 50
    assert [authors(trace) for trace in traces] == ["ssllss/l"] * 50
    assert [{trace.answer_text} for trace in traces] == [{f"It was {case}."} for (case,) in cases]
    # No call saw a prefix that is not its answer's own.
    for trace in traces:
        whole = f"{trace.messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n<think>\n" + "".join(
            [*(step.text for step in trace.steps), "\n\n", trace.answer_text]
        )
        asked = [vocabulary.decode(call.ids) for engine in (small, large) for call in engine.calls]
        own = [text.partition("user\n")[2] for text in asked if f"{trace.messages[0]['content']}<" in text]
        assert len(own) >= 4
        assert all(whole.startswith(text) for text in own)


async def test_seeds_differ_between_steps_and_sides_and_return_with_the_answers_seed() -> None:
    async def seeds(seed: int) -> dict[Side, list[int]]:
        small, large = pair(lines(LOW, HIGH, LOW, HIGH, LOW))
        await Router(small, large).answer(replace(question(), sampling=Sampling(seed=seed)))
        return {
            "small": [call.sampling.seed for call in small.generated],
            "large": [call.sampling.seed for call in large.generated],
        }

    first = await seeds(3)
    assert first == await seeds(3)
    assert first == {
        "small": [derived_seed(3, step, "small") for step in (0, 2, 4)],
        "large": [derived_seed(3, step, "large") for step in (1, 3, 6)],
    }
    drawn = [seed for side in SIDES for seed in first[side]] + [
        seed for side in SIDES for seed in (await seeds(4))[side]
    ]
    assert len(set(drawn)) == len(drawn)


async def test_sampling_is_the_callers_in_every_call_and_only_small_is_asked_for_log_probabilities() -> None:
    small, large = pair(lines(LOW, HIGH, LOW))
    sampling = Sampling(temperature=0.3, top_p=0.8, presence_penalty=0.5, seed=9)
    await Router(small, large).answer(replace(question(glimpse_top=5), sampling=sampling))
    for call in small.generated + large.generated:
        assert replace(call.sampling, seed=9) == sampling
    assert {call.top for call in small.generated} == {5}
    assert {call.top for call in large.generated} == {0}


@pytest.mark.parametrize("warm", [False, True])
async def test_between_vocabularies_own_ids_stay_and_the_others_text_is_encoded_once(warm: bool) -> None:
    vocabularies = Vocabulary(), Vocabulary(50_000)
    script = lines(LOW, HIGH, HIGH, LOW, HIGH, LOW)
    small = Engine(script, name="quick", vocabulary=vocabularies[0], answer="42")
    large = Engine(script, name="wise", vocabulary=vocabularies[1], answer="42")
    trace = await Router(small, large).answer(question(warm=warm))
    assert authors(trace) == "sllslss/l"
    for side, engine, vocabulary in zip(SIDES, (small, large), vocabularies, strict=True):
        others = [step.text.partition("</think>")[0] for step in trace.steps if step.author != side]
        if side == "small":
            assert "".join(engine.encoded) == "".join(others)
        for call in engine.generated:
            thought = vocabulary.decode(call.ids).partition("<think>\n")[2]
            assert trace.thought.startswith(thought.partition("</think>")[0].strip())
            for step in trace.steps:
                # Where an own step is in the prefix, it is there as it was drawn.
                if step.author == side and step.text and step.text in thought and step.end != "closed":
                    assert ",".join(map(str, step.ids)) in ",".join(map(str, call.ids))
    assert "".join(large.encoded) == "".join(
        step.text.partition("</think>")[0] for step in trace.steps if step.author == "small"
    )


async def test_within_a_vocabulary_no_text_is_encoded_again() -> None:
    small, large = pair(lines(LOW, HIGH, LOW, HIGH, LOW))
    trace = await Router(small, large).answer(question(answer_by="large"))
    assert authors(trace) == "slslss/l"
    assert small.encoded == large.encoded == []


async def test_warming_can_be_switched_off() -> None:
    small, large = pair(lines(LOW, HIGH, LOW))
    trace = await Router(small, large).answer(question(warm=False))
    assert small.warmed == large.warmed == []
    assert (trace.small.warm_calls, trace.large.warm_tokens) == (0, 0)


async def test_failed_warming_loses_no_text() -> None:
    class Flaky(Engine):
        """Its first encoding of thought text fails."""

        async def encode(self, text: str, *, special: bool = False) -> list[int]:
            if not special and not self.encoded:
                self.encoded.append("")
                raise EngineUnavailable("the server hiccuped", engine=self.name)
            return await super().encode(text, special=special)

    async def turn(seconds: float) -> None:
        await asyncio.sleep(0)

    other = Vocabulary(50_000)
    small = Engine(lines(*[LOW] * 3), name="quick", answer="42", pace=Pace(token_ms=1), sleep=turn)
    large = Flaky(lines(*[LOW] * 3), name="wise", answer="42", vocabulary=other)
    events = await events_of(Router(small, large), question(warm=True))
    assert isinstance(events[-1], Finished)
    trace = events[-1].trace
    if trace.error is None:
        thought = other.decode(large.generated[-1].ids).partition("<think>\n")[2].partition("</think>")[0]
        assert thought.strip() == trace.thought
    else:
        assert trace.error == "the server hiccuped"


async def test_times_are_told_by_the_clock_given() -> None:
    now = [100.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(first_token_ms=10, token_ms=2)
    small, large = pair(lines(LOW, HIGH, LOW), pace=pace, sleep=sleep)
    trace = await Router(small, large, clock=lambda: now[0]).answer(question())
    assert authors(trace) == "slss/l"
    assert [step.wait_ms for step in trace.steps] == pytest.approx([10, 12, 10, 2])
    assert trace.first_token_ms == pytest.approx(10)
    assert sum(step.wall_ms for step in trace.steps) == pytest.approx(trace.thought_ms)
    assert trace.thought_ms + trace.answer_ms == pytest.approx(trace.wall_ms)
    assert trace.handover_ms == pytest.approx(trace.steps[1].wait_ms + trace.steps[2].wait_ms)


STEP_TEXTS = st.sampled_from(
    ["Good.\n\n", "So it is 4.\n\n", "```\na\n\nb\n```\n\n", "A: b;\n\n", "x\n \n", "One more line\n"]
)
SCRIPTS = st.lists(st.builds(Line, STEP_TEXTS, st.sampled_from([LOW, HIGH])), min_size=1, max_size=8)
ROUTINGS = st.builds(
    Routing,
    policy=st.sampled_from(["glimpse", "random", "small", "large"]),
    answer_by=st.sampled_from(SIDES),
    min_step_tokens=st.sampled_from([0, 4, 9]),
    max_step_tokens=st.sampled_from([3, 512]),
    max_thinking_tokens=st.sampled_from([1, 9, 20, 500]),
    first_large_steps=st.sampled_from([0, 0, 2]),
    warm=st.booleans(),
)


@given(SCRIPTS, ROUTINGS, st.booleans(), st.integers(0, 3))
@settings(max_examples=60)
def test_whatever_the_script_trace_text_ids_events_and_calls_agree(
    script: list[Line], routing: Routing, same_vocabulary: bool, seed: int
) -> None:
    first = Vocabulary()
    vocabularies = {"small": first, "large": first if same_vocabulary else Vocabulary(50_000)}
    engines = {side: Engine(script, name=side, vocabulary=vocabularies[side], answer="42") for side in SIDES}
    router = Router(engines["small"], engines["large"])
    request = ask("Why?", routing=routing, sampling=Sampling(seed=seed))
    events = asyncio.run(events_of(router, request))

    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    trace = events[-1].trace
    assert trace.error is None
    assert trace.answer is not None
    assert trace.answer_text == "42"
    assert shown(events, "answer").strip() == "42"
    assert shown(events, "thought").strip("\n") == trace.thought
    assert trace.thought_tokens() <= routing.max_thinking_tokens
    assert [event.step for event in events if isinstance(event, StepStarted)] == trace.steps
    assert [event.step for event in events if isinstance(event, StepFinished)] == trace.steps
    assert "".join(step.text for step in trace.steps[:-1]).count("</think>") == 0
    for number, step in enumerate(trace.steps):
        assert step.index == number
        assert vocabularies[step.author].decode(step.ids) == step.text
        assert step.end != "failed"
    for side, engine in engines.items():
        usage = trace.usage_of(side)
        written = [token for step in trace.steps if step.author == side for token in step.ids]
        written += trace.answer.ids if trace.answer.author == side else []
        assert usage.calls == len(engine.generated)
        assert usage.new_tokens == len(written)
        assert usage.new_tokens + usage.discarded_tokens == sum(call.taken for call in engine.generated)
        assert engine.open_streams == 0
        for call in engine.generated:
            thought = vocabularies[side].decode(call.ids).partition("<think>\n")[2]
            assert trace.thought.strip().startswith(thought.partition("</think>")[0].strip())


def test_system_prompt_and_turns_before_reach_both_models() -> None:
    messages: tuple[Message, ...] = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Nobody."},
        {"role": "user", "content": "Why?"},
    )
    vocabulary = Vocabulary()
    small, large = pair(lines(LOW), vocabulary=vocabulary)
    asyncio.run(Router(small, large).answer(Request(messages, routing=Routing(warm=False))))
    for engine in (small, large):
        prompt = vocabulary.decode(engine.generated[0].ids)
        assert all(message["content"] in prompt for message in messages)


async def test_threshold_of_the_request_goes_before_that_of_the_pair_and_that_before_the_published_one() -> None:
    async def by_large(threshold_nats: float | None, **routing: Any) -> str:
        small, large = pair(lines(0.3, 0.7, 1.2))
        return authors(await Router(small, large, threshold_nats=threshold_nats).answer(question(**routing)))

    assert await by_large(None) == "ssls/l"
    assert await by_large(0.5) == "slls/l"
    assert await by_large(0.5, threshold=1.5) == "ssss/l"
    assert await by_large(0.5, threshold=0.0) == "llll/l"


async def test_unknown_policy_is_refused_before_anything_is_asked() -> None:
    small, large = pair(lines(LOW))
    with pytest.raises(ConfigError, match="accepted: glimpse, small"):
        await anext(Router(small, large).stream(question(policy="best")))
    assert small.calls == large.calls == []


class Terse(Engine):
    """Says with its last token that the stream ends, not behind it."""

    @asynccontextmanager
    async def generate(
        self, ids: Sequence[int], sampling: Sampling, **options: Any
    ) -> AsyncIterator[AsyncIterator[Token]]:
        async def shortened() -> AsyncGenerator[Token, None]:
            before: Token | None = None
            async for token in tokens:
                if before is not None and token.id >= 0:
                    yield before
                elif before is not None:
                    token = before._replace(finish=token.finish)
                before = token
            if before is not None:
                yield before

        opened = super().generate(ids, sampling, **options)
        async with opened as tokens, aclosing(shortened()) as fewer:
            yield fewer


@pytest.mark.parametrize("routing", [{}, {"answer_by": "small"}, {"policy": "large"}, {"max_thinking_tokens": 6}])
async def test_engine_that_ends_a_stream_with_its_last_token_is_understood(routing: dict[str, Any]) -> None:
    vocabulary, script = Vocabulary(), lines(LOW, HIGH, LOW)
    small, large = (Terse(script, name=name, vocabulary=vocabulary, answer="42") for name in ("quick", "wise"))
    trace = await Router(small, large).answer(question(**routing))
    assert trace.answer is not None
    assert (trace.answer_text, trace.answer.end) == ("42", "stop")


async def test_stop_string_right_behind_the_closing_tag_leaves_an_empty_answer() -> None:
    small, large = pair(lines(LOW))
    trace = await Router(small, large).answer(replace(question(), stop=("42",)))
    assert trace.answer is not None
    assert (trace.answer.end, trace.answer_text) == ("stop_string", "")


@pytest.mark.parametrize("warm", [False, True])
async def test_full_context_of_a_model_that_is_never_needed_does_no_harm(warm: bool) -> None:
    class Letters(Vocabulary):
        """Every character a token, so that a context is full of what another model writes in few."""

        _pieces = re.compile("(?s).")
        _special_pieces = re.compile("(?s)" + "|".join([*map(re.escape, CONTROL), "."]))

    async def turn(seconds: float) -> None:
        await asyncio.sleep(0)

    small = Engine(lines(*[LOW] * 12), name="quick", answer="42", pace=Pace(token_ms=1), sleep=turn)
    large = Engine(lines(*[LOW] * 12), name="wise", vocabulary=Letters(50_000), context_tokens=200)
    trace = await Router(small, large).answer(question(answer_by="small", warm=warm))
    assert (trace.answer_text, trace.error) == ("42", None)


@given(SCRIPTS, st.sampled_from(SIDES), st.integers(0, 60), st.booleans())
@settings(max_examples=60)
def test_wherever_an_engine_fails_what_was_written_is_whole_and_can_be_recorded(
    script: list[Line], failing: Side, after: int, warm: bool
) -> None:
    vocabulary = Vocabulary()
    engines = {side: Engine(script, name=side, vocabulary=vocabulary, answer="42") for side in SIDES}
    engines[failing].fail_after_tokens = after
    events = asyncio.run(events_of(Router(engines["small"], engines["large"]), question(warm=warm)))
    assert isinstance(events[-1], Finished)
    trace = events[-1].trace
    assert trace.error in (None, f"{failing}: out of order, as its script wants it")
    assert (trace.error is None) == (trace.answer is not None and trace.answer.end == "stop")
    assert all(vocabulary.decode(step.ids) == step.text for step in trace.steps)
    assert [step.end for step in trace.steps[:-1]].count("failed") == 0
    assert trace.thought.startswith(shown(events, "thought").strip("\n"))
    assert engines["small"].open_streams == engines["large"].open_streams == 0
    assert msgspec.json.decode(to_line(trace), type=Trace) == trace


async def test_beginning_of_a_stop_string_is_kept_when_the_answer_is_cut_behind_it() -> None:
    small, large = pair(lines(LOW), answer="It is 42 and less")
    events = await events_of(Router(small, large), replace(question(max_answer_tokens=3), stop=("42 and more",)))
    assert isinstance(events[-1], Finished)
    assert events[-1].trace.answer is not None
    assert events[-1].trace.answer.end == "length"
    assert events[-1].trace.answer_text == shown(events, "answer") == "It is 42"


async def test_text_behind_the_closing_tag_in_its_own_token_begins_the_answer() -> None:
    class Glued(Vocabulary):
        """`</think>\\n\\nFor` is one token."""

        _special_pieces = re.compile(rf"</think>\n\nFor|{Vocabulary._special_pieces.pattern}")

    def script(written: str) -> str:
        return "" if "sure." in written else " sure." if "</think>" in written else "Step.\n\n</think>\n\nFor"

    small, large = pair(script, vocabulary=Glued())
    events = await events_of(Router(small, large), question(policy="small", answer_by="small"))
    assert isinstance(events[-1], Finished)
    assert events[-1].trace.answer_text == "For sure."
    assert shown(events, "answer") == "For sure."
    assert shown(events, "thought").strip() == "Step."


async def test_idle_model_is_kept_warm_while_the_other_writes() -> None:
    async def turn(seconds: float) -> None:
        await asyncio.sleep(0)

    small, large = pair(lines(*[LOW] * 6), pace=Pace(token_ms=1), sleep=turn)
    trace = await Router(small, large).answer(question(warm=True))
    assert authors(trace) == "sssssss/l"
    assert len(large.warmed) > 3
    assert [len(call.ids) for call in large.warmed] == sorted({len(call.ids) for call in large.warmed})
    assert trace.large.warm_calls == len(large.warmed)
    # Only the last step and the closing tag are left to be read when large is to answer.
    assert trace.large.prompt_tokens - trace.large.cached_tokens < 20


async def test_white_space_without_end_is_not_read_to_the_end_of_the_context_for_a_glimpse() -> None:
    small, large = pair(lambda written: "7" if "</think>" in written else "\n" * 20)
    trace = await Router(small, large).answer(question(max_thinking_tokens=50, max_answer_tokens=1))
    assert trace.thought_tokens() <= 50
    assert small.generated[0].taken < 200


async def test_white_space_at_the_end_of_a_stream_is_no_broken_stream_for_a_glimpse() -> None:
    def script(written: str) -> str:
        if "</think>" in written:
            return "" if written.endswith("7") else "7"
        return "" if written.endswith(" \n") else "Step one.\n\n \n"

    vocabulary = Vocabulary()
    small, large = (Terse(script, name=name, vocabulary=vocabulary) for name in ("quick", "wise"))
    trace = await Router(small, large).answer(question())
    assert (trace.thought_end, trace.answer_text) == ("end_token", "7")


async def test_stream_closed_right_after_its_beginning_is_marked_cancelled() -> None:
    small, large = pair(lines(LOW))
    async with aclosing(Router(small, large).stream(question())) as events:
        begun = await anext(events)
    assert isinstance(begun, Started)
    assert begun.trace.error == "cancelled"


async def test_closing_the_stream_of_events_leaves_no_task_behind() -> None:
    small, large = pair(lines(LOW))
    async with aclosing(Router(small, large).stream(question())) as events:
        for _ in range(4):
            await anext(events)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("answer_by", SIDES)
async def test_no_event_carries_empty_text(answer_by: Side) -> None:
    small, large = pair(lines(LOW, HIGH, LOW))
    events = await events_of(Router(small, large), question(answer_by=answer_by))
    assert all(event.text for event in events if isinstance(event, Text))


def test_question_that_is_no_unicode_text_is_refused_before_it_is_asked() -> None:
    with pytest.raises(RequestError):
        ask("Why\udcff?")


async def test_fakes_without_a_vocabulary_of_their_own_exchange_no_foreign_ids() -> None:
    trace = await Router(Engine(lines(LOW, HIGH, LOW)), Engine(["Other words.\n\n", "So be it.\n\n"])).answer(
        question()
    )
    assert "So be it." in trace.thought
