"""The published schedule has the shape it claims, whatever the length of the thought."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.schedule import THRESHOLD_NATS, lines_of, schedule
from glimprouter.engines.scripted import Vocabulary

LENGTHS = [1_000, 6_000, 8_000, 32_000]


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("seed", range(3))
def test_step_lengths_are_those_of_the_public_trace(tokens: int, seed: int) -> None:
    lengths = [step.tokens for step in schedule(tokens, seed=seed)]
    assert sum(lengths) == tokens
    assert statistics.mean(lengths) == pytest.approx(34, abs=0.6)
    assert statistics.median(lengths) == pytest.approx(32, abs=1.5 if tokens > 1_000 else 4)
    assert sum(length <= 12 for length in lengths) / len(lengths) == pytest.approx(0.39, abs=1.5 / len(lengths))
    assert min(lengths) >= 4


@pytest.mark.parametrize("tokens", LENGTHS)
def test_27_percent_of_the_steps_are_for_the_large_model(tokens: int) -> None:
    steps = schedule(tokens)
    assert sum(step.pivot for step in steps) / len(steps) == pytest.approx(0.27, abs=0.02)
    assert not steps[0].pivot
    assert all(abs(step.entropy_nats - THRESHOLD_NATS) >= 0.19 for step in steps)


def test_the_same_seed_gives_the_same_schedule_and_another_one_another() -> None:
    assert schedule(1_000) == schedule(1_000) != schedule(1_000, seed=1)


def test_a_scripted_engine_writes_exactly_the_tokens_scheduled() -> None:
    steps = schedule(1_000)
    encoded = [Vocabulary().encode(line.text, special=False) for line in lines_of(steps)]
    assert [len(ids) for ids in encoded] == [step.tokens for step in steps]
