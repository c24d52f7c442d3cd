"""How fast an engine is, and what it costs it to come back: first tokens cold, seen before, and one step later.

Nothing is judged here but what the engine reports of its cache. What a model's stay should be follows from the numbers
of both models and is worked out where both are known.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from statistics import median

from glimprouter.engines.findings import Finding
from glimprouter.engines.subject import Drawn, Subject

PREFIX_TOKENS = 640
LONG_PREFIX_TOKENS = 2560
"""Tried where nothing of the shorter one was cached: hybrid attention caches in blocks of up to 2,000 tokens."""

LEAST_PREFIX_TOKENS = 64
STEP_TOKENS = 34
"""The mean length of a step in a public trace of R1's."""

THOUGHT_TOKENS = 3000
"""The middle of a long thought: what has to be read again where nothing is cached."""

LEAST_DRAWN_TOKENS = 48
MOST_DRAWS = 6
NOT_READ_AGAIN = 0.6
"""A repeated prompt that takes less than this share of the first time was cached, whatever the engine reports."""

STEP_TEXT = "So the total of both boxes is 17 + 25 = 42 apples, and Anna has 42 - 8 = 34 left.\n\n"


@dataclass(slots=True)
class Measured:
    """Of one model, alone. Milliseconds of wall time, seen from here; None where it could not be measured.

    `call_ms` is the cheapest call, one to the tokenizer. `first_token_ms` is that of a short prompt seen before.
    `reentry_first_token_ms`: of a prompt of which all but one step was seen before; `reread_tokens` of it were read
    though they had been seen, `reread_ms` is what reading so many takes. `thought_reread_tokens` and `_ms`: the same
    for a thought of 3,000 tokens.
    """

    context_tokens: int = 0
    logprobs: int = 0
    call_ms: float | None = None
    first_token_ms: float | None = None
    token_ms: float | None = None
    prefill_token_ms: float | None = None
    prompt_tokens: int = 0
    cold_first_token_ms: float | None = None
    again_first_token_ms: float | None = None
    again_cached_tokens: int = 0
    reentry_first_token_ms: float | None = None
    reentry_cached_tokens: int = 0
    reread_tokens: int | None = None
    reread_ms: float | None = None
    thought_reread_tokens: int | None = None
    thought_reread_ms: float | None = None

    @property
    def step_ms(self) -> float | None:
        """What the model takes to write a step."""
        return None if self.token_ms is None else self.token_ms * STEP_TOKENS


async def measure_pace(subject: Subject, measured: Measured) -> list[Finding]:
    """Time per token with the log-probabilities that the router asks for, to the first token, and of a mere call."""
    ids = await subject.prompt()
    calls = []
    for _ in range(3):
        begun = subject.clock()
        await subject.engine.encode("So")
        calls.append((subject.clock() - begun) * 1000)
    firsts = [(await subject.draw(ids)).first_token_ms for _ in range(4)][1:]
    spans_ms, tokens = 0.0, 0
    for _ in range(MOST_DRAWS):
        if tokens >= LEAST_DRAWN_TOKENS:
            break
        drawn = await subject.draw(ids, max_tokens=LEAST_DRAWN_TOKENS + 1)
        if len(drawn.tokens) < 2:
            break
        spans_ms += drawn.arrived_ms[-1] - drawn.arrived_ms[0]
        tokens += len(drawn.tokens) - 1
    measured.call_ms, measured.first_token_ms = min(calls), median(firsts)
    told = f"{measured.first_token_ms:,.1f} ms to the first token"
    if not tokens:
        return [Finding("pace", "note", subject.side, f"{told}; it wrote too little to know its time per token")]
    measured.token_ms = spans_ms / tokens
    text = f"{measured.token_ms:,.2f} ms a token, {told}, {measured.call_ms:,.1f} ms a call to the tokenizer"
    return [Finding("pace", "ok", subject.side, text)]


async def measure_cache(subject: Subject, measured: Measured) -> list[Finding]:
    """Read a prompt, read it again, and once more with a step behind it."""
    context_tokens = (await subject.facts()).context_tokens
    room = min(PREFIX_TOKENS, context_tokens // 2)
    if room < LEAST_PREFIX_TOKENS:
        text = f"not measured: a context of {context_tokens:,} tokens is too small"
        return [Finding("cache", "note", subject.side, text)]
    if measured.first_token_ms is None:
        measured.first_token_ms = (await subject.draw(await subject.prompt())).first_token_ms
    rounds = [await _reread(subject, room) for _ in range(2)]  # the first one may have to compile something
    best = min(rounds, key=lambda one: one.again.first_token_ms)
    _note(measured, best, coldest_ms=min(one.cold.first_token_ms for one in rounds))
    if measured.reread_tokens is not None and measured.reread_tokens >= best.prefix_tokens // 2:
        await _look_further(subject, measured, context_tokens)
    return [_of_cache(subject, measured, best)]


@dataclass(frozen=True, slots=True)
class _Reread:
    """Three calls for one token each. `prefix_tokens` is the length of the first prompt, the third has a step more."""

    prefix_tokens: int
    step_tokens: int
    cold: Drawn
    again: Drawn
    reentry: Drawn

    @property
    def is_told(self) -> bool:
        return self.again.usage.cached_tokens > 0 or self.reentry.usage.cached_tokens > 0


async def _reread(subject: Subject, tokens: int) -> _Reread:
    prefix = await subject.prompt(await _unseen_text(subject, tokens))
    step = await subject.engine.encode(STEP_TEXT)
    cold = await subject.draw(prefix)
    again = await subject.draw(prefix)
    return _Reread(len(prefix), len(step), cold, again, await subject.draw([*prefix, *step]))


async def _unseen_text(subject: Subject, tokens: int) -> str:
    """About so many tokens, different from the first on, so that no cache has them."""

    def lines(count: int) -> str:
        mark = secrets.token_hex(4)
        return "".join(
            f"{mark} {number}: {number * 37 % 101} apples, {number * 53 % 89} pears.\n" for number in range(count)
        )

    per_line = len(await subject.engine.encode(lines(8))) / 8
    return lines(max(1, int((tokens - STEP_TOKENS) / per_line)))


def _note(measured: Measured, seen: _Reread, *, coldest_ms: float) -> None:
    floor_ms = measured.first_token_ms or 0.0
    read_tokens = max(1, seen.prefix_tokens - seen.cold.usage.cached_tokens)
    measured.prompt_tokens = seen.prefix_tokens
    measured.cold_first_token_ms = coldest_ms
    measured.prefill_token_ms = max(0.0, coldest_ms - floor_ms) / read_tokens
    measured.again_first_token_ms = seen.again.first_token_ms
    measured.again_cached_tokens = seen.again.usage.cached_tokens
    measured.reentry_first_token_ms = seen.reentry.first_token_ms
    measured.reentry_cached_tokens = seen.reentry.usage.cached_tokens
    if seen.is_told:
        reread = max(0, seen.prefix_tokens - measured.reentry_cached_tokens)
    elif seen.again.first_token_ms < NOT_READ_AGAIN * coldest_ms and measured.prefill_token_ms:
        beyond_ms = seen.reentry.first_token_ms - floor_ms - seen.step_tokens * measured.prefill_token_ms
        reread = max(0, min(seen.prefix_tokens, round(beyond_ms / measured.prefill_token_ms)))
    else:
        reread = seen.prefix_tokens
    measured.reread_tokens = reread
    measured.reread_ms = reread * measured.prefill_token_ms
    measured.thought_reread_tokens = reread if reread < seen.prefix_tokens else max(reread, THOUGHT_TOKENS)
    measured.thought_reread_ms = measured.thought_reread_tokens * measured.prefill_token_ms


async def _look_further(subject: Subject, measured: Measured, context_tokens: int) -> None:
    """Little of the prompt was cached: are the cache's blocks larger than that, or is there no cache?"""
    assert measured.prefill_token_ms is not None
    tokens = min(LONG_PREFIX_TOKENS, context_tokens * 3 // 4)
    if tokens < 2 * PREFIX_TOKENS:
        return
    longer = await _reread(subject, tokens)
    cached = longer.reentry.usage.cached_tokens
    if cached:
        measured.thought_reread_tokens = longer.prefix_tokens - cached
        measured.thought_reread_ms = measured.thought_reread_tokens * measured.prefill_token_ms


def _of_cache(subject: Subject, measured: Measured, seen: _Reread) -> Finding:
    cold, again = measured.cold_first_token_ms or 0.0, seen.again.first_token_ms
    times = f"first token after {again:,.1f} ms, {cold:,.1f} ms the first time"
    cached = measured.again_cached_tokens
    if cached:
        return Finding("cache", "ok", subject.side, f"{cached:,} of {seen.prefix_tokens:,} tokens seen before; {times}")
    if again < NOT_READ_AGAIN * cold:
        return Finding(
            "cache",
            "note",
            subject.side,
            f"prefixes are cached ({times}), but the engine does not say how much of them",
            "start vLLM with --enable-prompt-tokens-details",
        )
    return Finding(
        "cache",
        "warn",
        subject.side,
        f"nothing of {seen.prefix_tokens:,} tokens seen just before was cached; {times}",
        "switch prefix caching on (vLLM: --enable-prefix-caching; llama.cpp: without --no-cache-prompt)",
    )
