"""The record of an answer: written, read again, damaged, and folded into figures."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.config import Sampling, Side
from glimprouter.errors import ConfigError
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.trace import (
    TRACE_VERSION,
    AnswerText,
    DraftRecord,
    Judgement,
    ModelUsage,
    Step,
    Trace,
    append,
    check_writable,
    histogram,
    read,
    summarise,
    thresholds,
    to_line,
)


def glimpse(entropy_nats: float) -> Glimpse:
    return Glimpse(entropy_nats, entropy_nats, entropy_nats, 1.0, 5, "So", ((5, -0.5), (6, -0.9)))


def step(author: Side, tokens: int, **fields: Any) -> Step:
    return Step(index=0, author=author, ids=[1] * tokens, **fields)


def trace(*steps: Step, **fields: Any) -> Trace:
    known: dict[str, Any] = {"small": ModelUsage(model="quick"), "large": ModelUsage(model="wise")} | fields
    return Trace(
        id="a1", created_unix_s=1.5, policy="glimpse", answer_by="large", sampling=Sampling(),
        messages=[{"role": "user", "content": "Why?"}], steps=list(steps), **known,
    )  # fmt: skip


def whole() -> Trace:
    return trace(
        step("small", 2, text="So é\n\n", glimpse=glimpse(0.25), end="boundary", wait_ms=1.0),
        step("large", 3, text="Wait\n</think>", glimpse=glimpse(1.75), end="closed", handover=True, loop_cycle_steps=2),
        answer=AnswerText(author="large", text="\n\n42", ids=[9], end="stop"),
        thought_end="closed",
        wall_ms=12.5,
    )


def test_file_of_before_there_were_drafts_is_read(tmp_path: Path) -> None:
    line = json.loads(to_line(whole()))
    for name in ("reward", "attempts"):
        del line[name]
    for old in line["steps"]:
        for name in ("drafts", "judgements", "decide_ms"):
            del old[name]
    for side in ("small", "large"):
        for name in ("aside_calls", "aside_tokens"):
            del line[side][name]
    (tmp_path / "old.jsonl").write_text(json.dumps(line) + "\n")
    assert list(read(tmp_path / "old.jsonl")) == [whole()]


def test_trace_with_drafts_and_attempts_is_the_same_after_a_round(tmp_path: Path) -> None:
    drafts = [DraftRecord(author="small", tokens=2, text="So", ids=[1, 2], end="boundary", perplexity=1.5)]
    judgements = [Judgement(kind="score", judge="large", drafts=[0], value=3, expected=3.2, covered=0.9)]
    whole_answer = trace(step("large", 3, drafts=drafts, judgements=judgements, end="cue"), attempts=[whole()])
    append(tmp_path / "traces.jsonl", whole_answer)
    assert list(read(tmp_path / "traces.jsonl")) == [whole_answer]


def test_trace_is_the_same_after_a_round_through_its_file(tmp_path: Path) -> None:
    first, second = whole(), trace(error="broken off")
    append(tmp_path / "traces.jsonl", first)
    append(tmp_path / "traces.jsonl", second)
    assert list(read(tmp_path / "traces.jsonl")) == [first, second]


def test_line_says_its_version_and_names_units() -> None:
    line = to_line(whole())
    fields = json.loads(line)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert fields["version"] == TRACE_VERSION
    assert fields["steps"][0]["glimpse"]["entropy_nats"] == 0.25
    assert fields["steps"][1]["wait_ms"] == 0.0


def test_records_that_hold_a_trace_are_read_like_bare_ones(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    record = {"question": "q1", "correct": 1, "trace": msgspec.to_builtins(whole()), "sample": 0}
    file.write_bytes(json.dumps(record).encode() + b"\n\n  \n" + to_line(whole()))
    assert list(read(file)) == [whole(), whole()]


@pytest.mark.parametrize("length", [1, 40, -2])
def test_incomplete_last_line_is_passed_over(tmp_path: Path, length: int) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_bytes(to_line(whole()) + to_line(whole())[:length])
    assert list(read(file)) == [whole()]


def test_last_line_without_a_newline_counts_if_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_bytes(to_line(whole()).rstrip())
    assert list(read(file)) == [whole()]


@pytest.mark.parametrize("damage", [b"{", b"[]", b"\xff", b'{"id": "a"}', b'{"trace": null}', b'{"trace": {"id": 3}}'])
def test_damaged_line_is_named_with_file_and_number(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_bytes(to_line(whole()) + damage + b"\n" + to_line(whole()))
    traces = read(file)
    assert next(traces) == whole()
    with pytest.raises(ConfigError, match=r"traces\.jsonl:2: not a trace"):
        next(traces)


def test_other_version_is_refused_by_number(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_bytes(to_line(trace(version=TRACE_VERSION + 1)))
    with pytest.raises(ConfigError, match=f"version {TRACE_VERSION + 1}, this program reads {TRACE_VERSION}"):
        list(read(file))


def test_file_that_cannot_be_written_or_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    nowhere = tmp_path / "no" / "such.jsonl"
    unwritable = r"such\.jsonl: cannot be written .*; give a file in a folder that exists"
    with pytest.raises(ConfigError, match=unwritable):
        check_writable(nowhere)
    with pytest.raises(ConfigError, match=unwritable):
        append(nowhere, whole())
    with pytest.raises(ConfigError, match=r"such\.jsonl: cannot be read .*; give a trace file"):
        list(read(nowhere))


def test_checking_a_file_changes_nothing_in_it(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    append(file, whole())
    check_writable(file)
    assert list(read(file)) == [whole()]


def test_shares_are_of_tokens_and_of_steps() -> None:
    one = trace(step("small", 6), step("large", 3), step("small", 3))
    assert one.large_token_share == 0.25
    assert one.large_step_share == pytest.approx(1 / 3)
    assert (one.thought_tokens(), one.thought_tokens("small"), one.thought_tokens("large")) == (12, 9, 3)
    assert (trace().large_token_share, trace().large_step_share) == (0.0, 0.0)


def test_hand_over_time_is_the_wait_before_steps_that_opened_a_stream_but_not_before_the_first() -> None:
    one = trace(
        step("small", 1, handover=True, wait_ms=100.0),
        step("large", 1, handover=True, wait_ms=20.0),
        step("large", 1, wait_ms=3.0),
        step("small", 1, handover=True, wait_ms=7.0),
    )
    assert one.handover_ms == 27.0
    assert one.handovers == 2


def test_thought_and_answer_are_shown_without_tags_and_margins() -> None:
    assert (whole().thought, whole().answer_text) == ("So é\n\nWait", "42")
    straddling = trace(step("small", 1, text="\nSo</th"), step("small", 1, text="ink>\n\n4"))
    assert straddling.thought == "So"
    assert trace().answer_text == ""


def test_entropies_are_those_of_the_steps_that_were_glimpsed() -> None:
    assert trace(step("small", 1, glimpse=glimpse(0.5)), step("large", 1)).entropies_nats == [0.5]


def test_answer_cancelled_says_where_it_stood() -> None:
    thinking, answering, done = trace(), trace(thought_end="closed", answer=AnswerText(author="large")), whole()
    for one in (thinking, answering, done):
        one.mark_cancelled()
    assert [one.error for one in (thinking, answering, done)] == ["cancelled"] * 3
    assert thinking.thought_end == "cancelled"
    assert answering.answer is not None
    assert (answering.thought_end, answering.answer.end) == ("closed", "cancelled")
    assert done.answer is not None
    assert done.answer.end == "stop"


def test_summary_pools_tokens_and_means_answers() -> None:
    quick = ModelUsage(model="quick", calls=2, prompt_tokens=10, cached_tokens=4, new_tokens=8, discarded_tokens=1)
    wise = ModelUsage(model="wise", calls=1, prompt_tokens=20, cached_tokens=9, new_tokens=3)
    one = trace(step("small", 8, glimpse=glimpse(0.5)), thought_end="closed", wall_ms=100.0, small=quick, large=wise)
    two = trace(
        step("large", 1, glimpse=glimpse(1.5)), step("large", 1, handover=True, wait_ms=6.0),
        thought_end="closed", wall_ms=400.0, first_token_ms=40.0, small=quick, large=wise,
    )  # fmt: skip
    three = trace(thought_end="thinking_budget", wall_ms=1000.0)
    found = summarise([one, two, three])
    assert (found.answers, found.failed, found.steps, found.thought_tokens, found.handovers) == (3, 0, 3, 10, 1)
    assert (found.large_token_share, found.large_step_share) == pytest.approx((0.2, 2 / 3))
    assert (found.wall.mean_ms, found.wall.median_ms) == (500.0, 400.0)
    assert (found.handover.mean_ms, found.handover.median_ms) == (2.0, 0.0)
    assert found.first_token.mean_ms == pytest.approx(40 / 3)
    assert found.thought_ends == {"closed": 2, "thinking_budget": 1}
    assert found.policies == {"glimpse": 3}
    assert found.entropies_nats == [0.5, 1.5]
    assert found.small == ModelUsage(
        model="quick", calls=4, prompt_tokens=20, cached_tokens=8, new_tokens=16, discarded_tokens=2
    )
    assert found.large.model == "wise"


def test_times_of_answers_that_failed_stay_out_of_the_means() -> None:
    failed, good = trace(wall_ms=1.0, error="gone"), trace(wall_ms=100.0)
    assert summarise([failed, good]).wall.mean_ms == 100.0
    assert summarise([failed, good]).failed == 1
    assert summarise([failed]).wall.mean_ms == 1.0


def test_models_of_several_files_are_all_named() -> None:
    assert summarise([trace(), trace(small=ModelUsage(model="other")), trace()]).small.model == "quick, other"


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(ConfigError, match="no traces"):
        summarise([])


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0]), min_size=1), st.floats(0.0, 1.0))
def test_no_other_threshold_comes_nearer_to_the_wanted_share(entropies: list[float], share: float) -> None:
    def off(threshold_nats: float) -> float:
        return abs(sum(value > threshold_nats for value in entropies) / len(entropies) - share)

    (row,) = thresholds(entropies, [share])
    assert abs(row.above_share - share) == pytest.approx(off(row.threshold_nats))
    assert off(row.threshold_nats) <= min(off(other) for other in [0.0, *entropies]) + 1e-9


def test_threshold_lies_between_entropies_that_were_seen() -> None:
    rows = thresholds([0.0, 0.2, 0.4, 1.0], [0.1, 0.25, 0.4, 0.5, 1.0])
    assert [row.threshold_nats for row in rows] == pytest.approx([1.0, 0.7, 0.3, 0.3, 0.0])
    assert [row.above_share for row in rows] == [0.0, 0.25, 0.5, 0.5, 0.75]
    assert thresholds([], [0.5]) == []


def test_histogram_counts_every_number_once_and_the_high_ones_in_the_last_bin() -> None:
    assert histogram([0.0, 0.24, 0.25, 2.99, 3.0, 9.0, math.nan], bins=12, high=3.0) == [2, 1, *[0] * 9, 3]
