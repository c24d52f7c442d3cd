"""Policies that draft, score, choose or read cue words, driven as the generators they are."""

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from glimprouter.config import Param, Routing, Sampling, Side
from glimprouter.errors import ConfigError
from glimprouter.flow.drafted import Drafted
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.judging import Choice, Grade
from glimprouter.flow.moves import Choose, Draft, Keep, Move, Reward, Score, StepPolicy, Verdict, Write
from glimprouter.flow.trace import ModelUsage, Step, StepEnd, Trace
from glimprouter.flow.until import Until
from glimprouter.policies import WITH_PARAMS, check_policy, make_policy
from glimprouter.policies.oracle import Oracle

FITTED: dict[str, dict[str, Param]] = {
    "steer": {"low_mean": 0.5, "low_sd": 0.1, "high_mean": 0.95, "high_sd": 0.05, "low_weight": 0.5},
    "relaygen": {"cues": ["So", "Therefore"]},
    "step-entropy": {"threshold": 0.3},
    "step-perplexity": {"threshold": 1.5},
}


def policy(name: str, *, first_large_steps: int = 0, **params: Param) -> StepPolicy:
    routing = Routing(policy=name, params=params, first_large_steps=first_large_steps)
    return make_policy(routing, threshold_nats=0.9, seed=1, fitted=FITTED.get(name, {}), has_reward=True)


def written(*steps: tuple[Side, str, StepEnd]) -> Trace:
    return Trace(
        id="a", created_unix_s=0.0, policy="", answer_by="large", sampling=Sampling(), messages=[],
        small=ModelUsage(), large=ModelUsage(),
        steps=[Step(index=n, author=who, text=text, ids=[1] * 5, end=end) for n, (who, text, end) in enumerate(steps)],
    )  # fmt: skip


def drafted(
    text: str = "A step.\n\n", number: int = 0, mean_entropy_nats: float | None = None, perplexity: float | None = None
) -> Drafted:
    return Drafted(number, "small", text, "boundary", mean_entropy_nats, perplexity)


def decide(made: StepPolicy, *seen: object, trace: Trace | None = None) -> tuple[Verdict, list[Move]]:
    """Answer each move with the next of `seen`; the verdict, and what was asked. Fails where more is asked."""
    answers: Iterator[Any] = iter(seen)
    asked: list[Move] = []
    plan = made.plan(trace or written())
    try:
        asked.append(next(plan))
        while True:
            asked.append(plan.send(next(answers)))
    except StopIteration as stop:
        verdict: Verdict = stop.value
        return verdict, asked


@pytest.mark.parametrize(("likeliest", "stands"), [(9, True), (8, True), (7, False), (0, False)])
def test_a_draft_stands_from_the_accepted_grade_on(likeliest: int, stands: bool) -> None:
    step = drafted()
    verdict, asked = decide(policy("specreason"), step, Grade(likeliest, 4.5, 1.0))
    assert verdict == (Keep(step) if stands else Write("large"))
    assert asked == [Draft("small"), Score(step, "large", "")]


def test_expected_grade_is_compared_where_that_is_asked_for() -> None:
    step, grade = drafted(), Grade(9, 6.4, 1.0)
    assert decide(policy("specreason", expected=True, accept=6.5), step, grade)[0] == Write("large")
    assert decide(policy("specreason", expected=True, accept=6.4), step, grade)[0] == Keep(step)


def test_draft_that_is_chosen_stands_and_an_unclear_choice_is_none() -> None:
    steps = [drafted(f"Step {number}.\n\n", number) for number in range(3)]
    verdict, asked = decide(policy("speccot"), *steps, Choice(1, (0.2, 0.7, 0.1), 1.0))
    assert verdict == Keep(steps[1])
    assert asked[-1] == Choose(tuple(steps), "large", "")
    assert decide(policy("speccot"), *steps, Choice(1, (0.3, 0.4, 0.3), 1.0))[0] == Write("large")
    assert decide(policy("speccot", least_share=0.0), *steps, Choice(None, (0.0,) * 3, 0.0))[0] == Write("large")


def test_equal_drafts_are_offered_once_and_need_no_choice_when_all_are() -> None:
    one, same, other = drafted("So.\n\n", 0), drafted("So. \n", 1), drafted("Or.\n\n", 2)
    verdict, asked = decide(policy("speccot"), one, same, other, Choice(1, (0.1, 0.9), 1.0))
    assert verdict == Keep(other)
    assert asked[-1] == Choose((one, other), "large", "")
    assert decide(policy("speccot", drafts=2), one, same) == (Keep(one), [Draft(), Draft()])


@pytest.mark.parametrize(
    ("name", "signals", "stands"),
    [
        ("step-entropy", {"mean_entropy_nats": 0.3}, True),
        ("step-entropy", {"mean_entropy_nats": 0.31}, False),
        ("step-perplexity", {"perplexity": 1.5}, True),
        ("step-perplexity", {"perplexity": 1.6}, False),
        ("step-entropy", {}, True),
    ],
)
def test_a_step_written_with_too_much_doubt_is_written_anew(name: str, signals: dict[str, Any], stands: bool) -> None:
    step = drafted(**signals)
    assert decide(policy(name), step)[0] == (Keep(step) if stands else Write("large"))


def test_reward_decides_whether_a_draft_stands() -> None:
    step = drafted()
    assert decide(policy("rsd"), step, 0.7) == (Keep(step), [Draft(), Reward(step)])
    assert decide(policy("rsd"), step, 0.69)[0] == Write("large")


@pytest.mark.parametrize(("likeliest", "who"), [(0.99, "small"), (0.6, "large"), (1.0, "small"), (0.01, "large")])
def test_confidence_of_the_lower_component_hands_over(likeliest: float, who: Side) -> None:
    glimpse = Glimpse(0.0, 0.0, 0.0, 1.0, 7, "So", ((7, math.log(likeliest)), (8, -20.0)))
    assert decide(policy("steer"), glimpse)[0] == Write(who)


def test_large_hands_a_sentence_to_small_after_a_cue_and_takes_it_back() -> None:
    made = policy("relaygen")
    wanted = Write("large", Until(cues=("So", "Therefore")))
    assert decide(made)[0] == wanted
    assert decide(made, trace=written(("large", "So ", "cue")))[0] == Write("small", Until(sentence=True))
    done = written(("large", "So ", "cue"), ("small", "it is.", "sentence"))
    assert decide(made, trace=done)[0] == wanted


class TestSpeculativeThinking:
    LOOK = Draft("small", Until(tokens=20))

    @pytest.mark.parametrize("text", ["Wait, no", "hmm, let me Verify that", "Hold on", "the final answer"])
    def test_cue_words_hand_over(self, text: str) -> None:
        verdict, asked = decide(policy("speculative-thinking"), drafted(text))
        assert (verdict, asked) == (Write("large", Until(tokens=20)), [self.LOOK])

    @pytest.mark.parametrize("text", ["So 4 it is", "He waited", "a checker's board", "yesterday"])
    def test_other_words_stand_also_where_a_cue_is_part_of_them(self, text: str) -> None:
        look = drafted(text)
        assert decide(policy("speculative-thinking"), look)[0] == Keep(look)

    def test_rest_of_a_step_that_was_looked_at_is_smalls(self) -> None:
        trace = written(("small", "So 4", "tokens"))
        assert decide(policy("speculative-thinking"), trace=trace) == (Write("small"), [])

    def test_large_that_speaks_of_verifying_goes_on_once(self) -> None:
        made = policy("speculative-thinking")
        takeover: tuple[Side, str, StepEnd] = ("large", "Let me check.", "tokens")
        assert decide(made, trace=written(takeover))[0] == Write("large", Until(tokens=125))
        assert decide(made, trace=written(takeover, takeover))[0] == Write("small")

    def test_every_nth_reflection_is_followed_by_a_recapitulation(self) -> None:
        made = policy("speculative-thinking", reflections=2, recap_tokens=50)
        once: list[tuple[Side, str, StepEnd]] = [("large", "Wait, no.", "boundary")]
        assert decide(made, drafted(), trace=written(*once))[1] == [self.LOOK]
        twice = [*once, ("small", "Well.", "boundary"), *once]
        assert decide(made, trace=written(*twice))[0] == Write("large", Until(tokens=50))


def test_random_by_tokens_pulls_the_share_of_tokens_to_the_one_asked_for() -> None:
    routing, lengths = Routing(policy="random-tokens", random_p=0.3), random.Random(5)
    shares = []
    for seed in range(20):
        made, trace = make_policy(routing, threshold_nats=0.9, seed=seed), written()
        for index in range(200):
            verdict, _ = decide(made, trace=trace)
            assert isinstance(verdict, Write)
            trace.steps.append(Step(index=index, author=verdict.who, ids=[1] * lengths.choice((3, 30, 200))))
        shares.append(trace.large_token_share)
    assert all(abs(share - 0.3) < 0.05 for share in shares)


def test_oracle_keeps_what_is_right_and_nothing_else() -> None:
    right, wrong = drafted("4 = 2 + 2.\n\n"), drafted("5 = 2 + 2.\n\n")
    made = Oracle(lambda trace, text: text.startswith("4"))
    assert decide(made, right)[0] == Keep(right)
    assert decide(made, wrong)[0] == Write("large")


@pytest.mark.parametrize("name", WITH_PARAMS)
def test_first_steps_go_to_large_without_a_draft(name: str) -> None:
    assert decide(policy(name, first_large_steps=1)) == (Write("large"), [])
    assert set(policy(name).authors) == {"small", "large"}
    assert policy(name).describe().startswith(f"{name}(")


@pytest.mark.parametrize(
    ("name", "params", "field", "says"),
    [
        ("specreason", {"accept": 12}, "params.accept", "accept is 12; accepted: from 0 to 9"),
        ("specreason", {"acept": 7}, "params.acept", "Did you mean params.accept"),
        ("specreason", {"accept": "high"}, "params.accept", "accepted: a number"),
        ("specreason", {"expected": 1}, "params.expected", "true or false"),
        ("speccot", {"drafts": 1}, "params.drafts", "from 2 to 8"),
        ("relaygen", {"cues": [1]}, "params.cues", "a text or a list of texts"),
        ("glimpse", {"accept": 7}, "params", "takes no params"),
        ("magic", {}, "policy", "accepted: glimpse, small, large, random, random-tokens, specreason"),
    ],
)
def test_bad_options_are_refused_by_name(name: str, params: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        check_policy(name, params)
    assert refused.value.field == field


def test_what_must_be_fitted_is_asked_for_where_the_pair_has_none() -> None:
    check_policy("steer", {"least": 0.4})
    with pytest.raises(ConfigError, match="no low_mean, low_sd, high_mean, high_sd"):
        make_policy(Routing(policy="steer", params={"least": 0.4}), threshold_nats=0.9, seed=0)


def test_own_options_go_before_fitted_ones() -> None:
    assert policy("step-entropy", threshold=0.7).describe() == "step-entropy(threshold=0.7)"


def test_policy_that_needs_a_reward_model_says_how_to_name_one() -> None:
    with pytest.raises(ConfigError, match="--reward") as refused:
        make_policy(Routing(policy="rsd"), threshold_nats=0.9, seed=0)
    assert refused.value.field == "reward"
