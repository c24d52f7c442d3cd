"""Engines that are odd in one way each, and what a look at them finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from glimprouter.config import Sampling
from glimprouter.engines.findings import CODES, Finding
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.engines.pace import Measured, measure_cache, measure_pace
from glimprouter.engines.probe import examine, screen
from glimprouter.engines.scripted import Line, Opening, Pace, ScriptedEngine
from glimprouter.engines.subject import Subject
from glimprouter.engines.versions import version_of
from glimprouter.errors import EngineProtocolError, EngineTimeout
from glimprouter.flow.engine import EngineFacts, Session, Token, Usage

STORY = [Line(f"Step {number} adds {number} apples to all the others in the box.\n\n", 0.5) for number in range(20)]


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


class Odd(ScriptedEngine):
    """A scripted engine whose tokens come out otherwise than they should."""

    def __init__(self, *, opening: Opening = "model", context_tokens: int = 32_768) -> None:
        super().__init__(STORY, opening=opening, context_tokens=context_tokens)

    def change(self, token: Token, sampling: Sampling, top: int) -> Token:
        return token

    @asynccontextmanager
    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        top: int,
        usage: Usage,
        session: Session | None = None,
    ) -> AsyncIterator[AsyncIterator[Token]]:
        async with super().generate(
            ids, sampling, max_tokens=max_tokens, top=top, usage=usage, session=session
        ) as tokens:
            yield (self.change(token, sampling, top) async for token in tokens)


def with_top(token: Token, top: Sequence[tuple[int, float]]) -> Token:
    return Token(token.id, token.text, None, tuple(top), token.finish)


def engine_of(**options: object) -> ScriptedEngine:
    return ScriptedEngine(STORY, **options)  # type: ignore[arg-type]


async def seen(engine: ScriptedEngine, *, top: int = 20) -> dict[str, Finding]:
    """The worst finding of each code."""
    rank = ("ok", "note", "warn", "fail")
    worst: dict[str, Finding] = {}
    for finding in await examine(Subject(engine, "small", top=top), patience_s=1.0):
        before = worst.get(finding.code)
        if before is None or rank.index(finding.level) > rank.index(before.level):
            worst[finding.code] = finding
    return worst


async def test_an_engine_that_does_all_it_should_is_found_well() -> None:
    found = await seen(engine_of())
    assert {finding.level for finding in found.values()} == {"ok"}
    assert set(found) == set(CODES) - {
        *("replicas", "engine", "pace", "cache", "reentry", "vocabulary", "control", "ratio")
    }
    assert await screen(engine_of(), "small", top=20) == []


async def test_a_screening_costs_one_generated_token() -> None:
    engine = engine_of()
    await screen(engine, "small", top=20)
    (call,) = engine.calls
    assert (call.max_tokens, call.top) == (1, 20)


async def test_too_few_log_probabilities_are_a_warning_with_the_ceiling_they_mean() -> None:
    class Few(Odd):
        def change(self, token: Token, sampling: Sampling, top: int) -> Token:
            return with_top(token, token.top[:5])

    found = await seen(Few())
    assert found["logprobs"].level == "warn"
    assert "5 of 20" in found["logprobs"].text
    assert "1.61 nats" in found["logprobs"].text
    assert "--max-logprobs 20" in found["logprobs"].mend


async def test_no_log_probabilities_are_a_failure_of_a_small_model_only() -> None:
    class Mute(Odd):
        def change(self, token: Token, sampling: Sampling, top: int) -> Token:
            return with_top(token, ())

    found = await seen(Mute())
    assert found["logprobs"].level == "fail"
    assert "--policy" in found["logprobs"].mend
    assert "logprobs" not in await seen(Mute(), top=0)
    (finding,) = await screen(Mute(), "small", top=20)
    assert finding == found["logprobs"]


async def test_an_engine_that_refuses_so_many_log_probabilities_is_asked_how_many_it_gives() -> None:
    class Strict(ScriptedEngine):
        @asynccontextmanager
        async def generate(
            self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, top: int, usage: Usage,
            session: Session | None = None,
        ) -> AsyncIterator[AsyncIterator[Token]]:  # fmt: skip
            if top > 5:
                raise EngineProtocolError(f"answered 400: {top} exceeds max_logprobs 5", final=True)
            async with super().generate(
                ids, sampling, max_tokens=max_tokens, top=top, usage=usage, session=session
            ) as tokens:
                yield tokens

    found = await seen(Strict(STORY))
    assert found["logprobs"].level == "fail"
    assert "gives 5" in found["logprobs"].text
    assert "max_logprobs 5" in found["logprobs"].text
    assert "glimpse_top = 5" in found["logprobs"].mend


async def test_log_probabilities_that_are_none_are_a_failure() -> None:
    class Mad(Odd):
        def change(self, token: Token, sampling: Sampling, top: int) -> Token:
            return with_top(token, [(id_, float("nan")) for id_, _ in token.top])

    assert (await seen(Mad()))["logprobs"].level == "fail"


async def test_log_probabilities_divided_by_the_temperature_are_noticed() -> None:
    class Scaled(Odd):
        def change(self, token: Token, sampling: Sampling, top: int) -> Token:
            by = sampling.temperature or 1.0
            return with_top(token, [(id_, logprob / by) for id_, logprob in token.top])

    found = await seen(Scaled())
    assert found["temperature"].level == "fail"
    assert "SGLANG_RETURN_ORIGINAL_LOGPROB=1" in found["temperature"].mend
    assert (await seen(Scaled(), top=0))["temperature"].level == "note"


async def test_ids_that_do_not_become_the_text_again_are_a_failure_and_lost_blanks_a_warning() -> None:
    class Wrong(ScriptedEngine):
        async def decode(self, ids: Sequence[int]) -> str:
            return (await super().decode(ids)).replace("Wait", "Weight")

    class Trimming(ScriptedEngine):
        async def decode(self, ids: Sequence[int]) -> str:
            return (await super().decode(ids)).strip()

    found = await seen(Wrong(STORY))
    assert found["ids"].level == "fail"
    assert "'ait, " in found["ids"].text
    assert "--tokenizer FOLDER" in found["ids"].mend
    assert (await seen(Trimming(STORY)))["ids"].level == "warn"


async def test_ids_of_another_tokenizer_than_the_one_that_draws_are_noticed() -> None:
    class Shifted(Odd):
        def change(self, token: Token, sampling: Sampling, top: int) -> Token:
            return Token(0, token.text, top=token.top) if token.id >= 0 else token

    found = await seen(Shifted())
    assert found["drawn-ids"].level == "fail"
    assert "--tokenizer FOLDER" in found["drawn-ids"].mend


async def test_an_engine_that_counts_other_tokens_than_were_sent_changes_prompts() -> None:
    class Adding(Odd):
        @asynccontextmanager
        async def generate(
            self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, top: int, usage: Usage,
            session: Session | None = None,
        ) -> AsyncIterator[AsyncIterator[Token]]:  # fmt: skip
            async with super().generate(
                ids, sampling, max_tokens=max_tokens, top=top, usage=usage, session=session
            ) as tokens:
                usage.prompt_tokens += 1
                yield tokens

    found = await seen(Adding())
    assert found["call"].level == "warn"
    assert "the engine counts" in found["call"].text


async def test_a_template_that_closes_the_thought_fails_in_the_words_that_the_router_uses() -> None:
    found = await seen(engine_of(opening="closed"))
    assert found["thought"].level == "fail"
    assert "closes the thought" in found["thought"].text
    assert "template with thinking on" in found["thought"].mend


async def test_a_template_without_tags_is_mended_by_naming_them() -> None:
    class Plain(ScriptedEngine):
        async def facts(self) -> EngineFacts:
            return replace(await super().facts(), chat_template="{{ messages }}")

    found = await seen(Plain(STORY))
    assert found["thought"].level == "fail"
    assert "--thought-format" in found["thought"].mend


async def test_a_template_that_opens_the_thought_itself_is_well() -> None:
    assert (await seen(engine_of(opening="template")))["thought"].level == "ok"


async def test_what_an_adapter_warns_of_is_a_finding_also_when_the_pair_is_opened() -> None:
    class Wordy(ScriptedEngine):
        async def facts(self) -> EngineFacts:
            return replace(await super().facts(), warnings=("takes no ids",))

    assert (await seen(Wordy(STORY)))["engine"].level == "warn"
    (finding,) = await screen(Wordy(STORY), "large", top=0)
    assert (finding.side, finding.text) == ("large", "takes no ids")


@pytest.mark.parametrize(("tokens", "level"), [(32_768, "ok"), (4096, "note"), (300, "warn")])
async def test_a_context_is_measured_against_the_budgets(tokens: int, level: str) -> None:
    found = (await seen(engine_of(context_tokens=tokens)))["context"]
    assert found.level == level
    assert f"{tokens:,} tokens" in found.text


async def test_an_engine_that_is_away_ends_the_examination_with_one_failure() -> None:
    engine = engine_of(fail_after_tokens=0)
    found = await seen(engine)
    assert [finding.code for finding in found.values() if finding.level == "fail"] == ["call"]
    assert "out of order" in found["call"].text
    assert "ids" not in found


async def test_an_engine_that_is_away_when_a_pair_is_opened_is_not_unfit_for_that() -> None:
    found = await screen(engine_of(fail_after_tokens=0), "small", top=20)
    assert [(finding.code, finding.level) for finding in found] == [("call", "warn")]


async def test_a_silent_engine_is_waited_for_only_so_long() -> None:
    class Silent(ScriptedEngine):
        async def facts(self) -> EngineFacts:
            await asyncio.sleep(3600)
            raise AssertionError

    (finding,) = await examine(Subject(Silent(STORY), "large", top=0), patience_s=0.05)
    assert (finding.code, finding.level) == ("reachable", "fail")
    assert "no answer within 0.05 s" in finding.text


async def test_an_engine_that_times_out_in_the_middle_fails_that_check_and_no_other() -> None:
    class Tired(ScriptedEngine):
        async def decode(self, ids: Sequence[int]) -> str:
            raise EngineTimeout("no reply within 1 s")

    found = await seen(Tired(STORY))
    assert found["ids"].level == "fail"
    assert found["temperature"].level == "ok"


async def test_a_stream_that_goes_on_after_it_was_left_is_noticed() -> None:
    clock = Clock()

    class Busy(ScriptedEngine):
        free_at_s = 0.0

        @asynccontextmanager
        async def generate(
            self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, top: int, usage: Usage,
            session: Session | None = None,
        ) -> AsyncIterator[AsyncIterator[Token]]:  # fmt: skip
            await clock.sleep(max(0.0, self.free_at_s - clock()))
            try:
                async with super().generate(
                    ids, sampling, max_tokens=max_tokens, top=top, usage=usage, session=session
                ) as tokens:
                    yield tokens
            finally:
                self.free_at_s = clock() + (2.0 if max_tokens > 100 else 0.0)

    engine = Busy(STORY, pace=Pace(first_token_ms=5, token_ms=10), sleep=clock.sleep)
    found = await examine(Subject(engine, "small", top=20, clock=clock))
    assert [finding.text for finding in found if finding.code == "release"] == [
        "a stream that was left kept the next call waiting for 2,000 ms"
    ]


async def test_blocks_instead_of_a_stream_are_noticed() -> None:
    class Blocks(Odd):
        @asynccontextmanager
        async def generate(
            self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, top: int, usage: Usage,
            session: Session | None = None,
        ) -> AsyncIterator[AsyncIterator[Token]]:  # fmt: skip
            async with super().generate(
                ids, sampling, max_tokens=max_tokens, top=top, usage=usage, session=session
            ) as tokens:
                usage.requests += 1
                yield tokens

    assert (await seen(Blocks()))["stream"].level == "warn"


# Time ----------------------------------------------------------------------------------------------------------------


async def test_times_are_those_of_the_engine() -> None:
    clock, measured = Clock(), Measured()
    engine = engine_of(pace=Pace(first_token_ms=40, token_ms=12.8), sleep=clock.sleep)
    (finding,) = await measure_pace(Subject(engine, "small", top=20, clock=clock), measured)
    assert measured.token_ms == pytest.approx(12.8)
    assert measured.first_token_ms == pytest.approx(40)
    assert measured.step_ms == pytest.approx(12.8 * 34)
    assert "12.80 ms a token" in finding.text
    assert {call.top for call in engine.calls} == {20}


async def test_an_engine_that_writes_nothing_has_no_time_per_token() -> None:
    measured = Measured()
    (finding,) = await measure_pace(Subject(ScriptedEngine(lambda _: ""), "small", top=20), measured)
    assert finding.level == "note"
    assert measured.token_ms is None


async def measured_of(engine: ScriptedEngine, clock: Clock) -> tuple[Measured, Finding]:
    measured = Measured()
    subject = Subject(engine, "large", top=0, clock=clock)
    await measure_pace(subject, measured)
    (finding,) = await measure_cache(subject, measured)
    return measured, finding


async def test_a_cached_prefix_makes_coming_back_cheap() -> None:
    clock = Clock()
    engine = engine_of(pace=Pace(first_token_ms=10, token_ms=10, prefill_token_ms=1), sleep=clock.sleep)
    measured, finding = await measured_of(engine, clock)
    assert finding.level == "ok"
    assert measured.reread_tokens == 0
    assert measured.again_cached_tokens == measured.prompt_tokens - 1
    assert 400 < measured.prompt_tokens <= 640
    assert measured.prefill_token_ms == pytest.approx(1, rel=0.05)


class Forgetful(ScriptedEngine):
    """Caches whole blocks only, and tells of it or not."""

    def __init__(self, block_tokens: int, clock: Clock, *, tells: bool = True) -> None:
        pace = Pace(first_token_ms=10, token_ms=10, prefill_token_ms=1, block_tokens=block_tokens)
        super().__init__(STORY, pace=pace, sleep=clock.sleep)
        self._tells = tells

    @asynccontextmanager
    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, top: int, usage: Usage,
        session: Session | None = None,
    ) -> AsyncIterator[AsyncIterator[Token]]:  # fmt: skip
        async with super().generate(
            ids, sampling, max_tokens=max_tokens, top=top, usage=usage, session=session
        ) as tokens:
            yield tokens
        if not self._tells:
            usage.cached_tokens = 0


async def test_without_a_cache_the_whole_thought_is_read_again() -> None:
    clock = Clock()
    measured, finding = await measured_of(Forgetful(10**6, clock), clock)
    assert finding.level == "warn"
    assert "--enable-prefix-caching" in finding.mend
    assert measured.reread_tokens == measured.prompt_tokens
    assert measured.thought_reread_tokens == 3000


async def test_large_blocks_are_told_from_no_cache_by_a_longer_prompt() -> None:
    clock = Clock()
    measured, finding = await measured_of(Forgetful(1000, clock), clock)
    assert finding.level == "warn"
    assert measured.thought_reread_tokens is not None
    assert 0 < measured.thought_reread_tokens < 1000


async def test_a_cache_that_is_not_told_of_is_seen_by_its_time() -> None:
    clock = Clock()
    measured, finding = await measured_of(Forgetful(16, clock, tells=False), clock)
    assert finding.level == "note"
    assert "--enable-prompt-tokens-details" in finding.mend
    assert measured.reread_tokens is not None
    assert measured.reread_tokens <= 16


async def test_a_small_context_leaves_no_room_to_measure_the_cache() -> None:
    (finding,) = await measure_cache(Subject(engine_of(context_tokens=100), "small", top=20), Measured())
    assert finding.level == "note"


# The real thing ------------------------------------------------------------------------------------------------------


async def test_a_model_that_ships_is_found_well_on_llama_cpp() -> None:
    path = Path(str(files("glimprouter.models") / "tiny-small.gguf"))
    engine = await LocalGguf.start(path)
    try:
        assert (await version_of(engine)).startswith("llama.cpp")
        found = await examine(Subject(engine, "small", top=20))
        assert {finding.level for finding in found if finding.code != "context"} == {"ok"}
        measured = Measured()
        await measure_pace(Subject(engine, "small", top=20), measured)
        (finding,) = await measure_cache(Subject(engine, "small", top=20), measured)
    finally:
        await engine.close()
    assert finding.level == "ok"
    assert measured.reread_tokens is not None
    assert measured.reread_tokens <= 1
    assert measured.token_ms
