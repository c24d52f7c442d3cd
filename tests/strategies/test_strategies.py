"""Strategies over scripted engines: which answer stands, what it cost, and what is refused."""

from typing import Any

import pytest

from glimprouter.config import Param, Routing, Sampling
from glimprouter.engines.scripted import Line, ScriptedEngine, Vocabulary
from glimprouter.errors import ConfigError
from glimprouter.flow.request import Request, ask
from glimprouter.flow.trace import Trace, to_line
from glimprouter.router import Router
from glimprouter.strategies import STRATEGIES, check_strategy, make_strategy

SURE, UNSURE = 0.1, 2.0


class Fickle(ScriptedEngine):
    """Answers by the seed it is called with."""

    def __init__(self, answers: list[str], vocabulary: Vocabulary) -> None:
        self._seeds: list[int] = []
        self._answers = answers
        super().__init__(self._next_text, vocabulary=vocabulary)

    def generate(self, ids: Any, sampling: Sampling, **options: Any) -> Any:
        if sampling.seed not in self._seeds:
            self._seeds.append(sampling.seed)
        self._text = self._answers[self._seeds.index(sampling.seed)]
        return super().generate(ids, sampling, **options)

    def _next_text(self, written: str) -> str:
        whole = f"<think>\nOne step only.\n</think>\n\n{self._text}"
        return whole[len(written) :]


def pair(*entropies: float, answer: str = "small says") -> tuple[ScriptedEngine, ScriptedEngine]:
    vocabulary = Vocabulary()
    lines = [Line(f"Step {place} goes this far.\n\n", nats) for place, nats in enumerate(entropies)]
    return (
        ScriptedEngine(lines, answer=answer, name="quick", vocabulary=vocabulary),
        ScriptedEngine(["The large way.\n\n"], answer="large says", name="wise", vocabulary=vocabulary),
    )


def question() -> Request:
    return ask("Why?", routing=Routing(warm=False, min_step_tokens=0, first_large_steps=1))


async def answered(name: str, engines: tuple[ScriptedEngine, ScriptedEngine], **params: Param) -> Trace:
    strategy = make_strategy(name, params, fitted={})
    trace = await strategy.answer(Router(*engines), question(), extract=lambda text: text.strip() or None)
    to_line(trace)
    return trace


def drawn(engine: ScriptedEngine) -> int:
    return sum(call.taken for call in engine.calls)


@pytest.mark.parametrize("signal", ["h_init", "token_entropy"])
async def test_cascade_lets_a_sure_answer_stand_and_asks_large_nothing(signal: str) -> None:
    small, large = pair(SURE, SURE)
    trace = await answered("cascade", (small, large), threshold=1.0, signal=signal)
    assert (trace.answer_text, trace.attempts, large.calls) == ("small says", [], [])
    assert trace.policy.startswith("cascade(threshold=1")


@pytest.mark.parametrize(("signal", "threshold"), [("h_init", 1.0), ("token_entropy", 0.2)])
async def test_cascade_has_large_answer_anew_and_counts_what_small_wrote_in_vain(signal: str, threshold: float) -> None:
    small, large = pair(UNSURE, UNSURE)
    trace = await answered("cascade", (small, large), threshold=threshold, signal=signal)
    assert trace.answer_text == "large says"
    assert trace.large_token_share == 1.0
    assert [attempt.answer_text for attempt in trace.attempts] == ["small says"]
    assert (trace.small.new_tokens, trace.small.discarded_tokens) == (0, drawn(small))
    assert trace.wall_ms >= trace.thought_ms >= trace.first_token_ms > 0


@pytest.mark.parametrize(("nats", "says"), [(SURE, "small says"), (UNSURE, "large says")])
async def test_a_look_at_the_first_thoughts_says_who_has_the_whole_question(nats: float, says: str) -> None:
    engines = pair(nats, SURE, SURE, SURE)
    trace = await answered("whole-question", engines, threshold=0.25, look_tokens=6)
    assert trace.answer_text == says
    assert len({step.author for step in trace.steps}) == 1
    assert [attempt.thought_tokens() for attempt in trace.attempts] == [6]


async def test_majority_stands_and_the_others_are_paid_for() -> None:
    vocabulary = Vocabulary()
    small = Fickle(["4", "5", "", "5", "4"], vocabulary)
    trace = await answered("vote", (small, pair(SURE)[1]), votes=4)
    assert trace.answer_text == "5"
    assert len(trace.attempts) == 3
    assert trace.small.new_tokens + trace.small.discarded_tokens == drawn(small)


async def test_among_equals_the_first_stands_and_none_at_all_is_the_first_too() -> None:
    for answers, stands in ((["4", "5"], "4"), (["", ""], "")):
        trace = await answered("vote", (Fickle(answers, Vocabulary()), pair(SURE)[1]), votes=2)
        assert trace.answer_text == stands


async def test_the_default_does_what_the_request_says() -> None:
    trace = await answered("routed", pair(SURE, UNSURE))
    assert [step.author for step in trace.steps][:2] == ["large", "large"]


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("cascades", {}, "accepted: routed, cascade, whole-question, vote"),
        ("vote", {"votes": 1}, "from 2 to 1000"),
        ("cascade", {"signal": "loud"}, "h_init, token_entropy"),
        ("routed", {"votes": 3}, "unknown key"),
    ],
)
def test_bad_names_and_options_are_refused(name: str, params: dict[str, Param], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_strategy(name, params)


def test_threshold_of_a_cascade_must_be_given_or_fitted() -> None:
    with pytest.raises(ConfigError, match="cascade has no threshold"):
        make_strategy("cascade", {}, fitted={})
    assert make_strategy("cascade", {}, fitted={"threshold": 0.2}).describe().startswith("cascade(threshold=0.2")
    assert set(STRATEGIES) == {"routed", "cascade", "whole-question", "vote"}
