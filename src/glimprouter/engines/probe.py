"""Can this engine do what the router needs? Each check looks at one thing and returns what it found.

Whatever an engine runs on, it is only asked what `flow.engine.Engine` declares. `screen` is the short examination that
a pair is given when it is opened; `examine` is the whole one. What things cost in time is measured in `pace.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

from glimprouter.config import Routing, Sampling, Side
from glimprouter.engines.findings import Finding, Level
from glimprouter.engines.subject import Subject
from glimprouter.engines.versions import version_of
from glimprouter.errors import (
    ContextError,
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    InputError,
    PairError,
)
from glimprouter.flow.engine import Engine, Token, Usage
from glimprouter.flow.glimpse import entropy_of

Check = Callable[[Subject], Awaitable[list[Finding]]]

PATIENCE_S = 60.0
"""A check that takes longer has found an engine that does not answer."""

SMALLEST_CONTEXT_TOKENS = 512
SAMPLE_TEXT = (
    "So 12 * 3 = 36.\n\nWait, let x = {'a': [1, 22]}:\n\tdef f(n):\n        return n**2\n\n"
    "Été, 你好 и Привет \U0001f600.\n"
)
RAW_WITHIN_NATS = 0.05
"""Batching and reduced precision move log-probabilities by less."""


async def screen(engine: Engine, side: Side, *, top: int, glimpses: bool = True) -> list[Finding]:
    """The short examination: a prompt, a token, a text there and back. What is found to be well is left out.

    An engine that is merely busy, or away just now, is not unfit for that.
    """
    subject = Subject(engine, side, top=top, glimpses=glimpses)
    found: list[Finding] = []
    for check in (check_engine, check_call, check_ids):
        found += await _made(check, subject, away="warn")
    return [finding for finding in found if finding.level in ("warn", "fail")]


async def examine(subject: Subject, *, patience_s: float = PATIENCE_S) -> list[Finding]:
    """Everything but the time it takes. Ends early where the engine cannot be reached or refuses a plain call."""
    found: list[Finding] = []
    for check in CHECKS:
        found += await _made(check, subject, patience_s)
        if found and found[-1].level == "fail" and found[-1].code in ("reachable", "call"):
            break
    return found


async def _made(
    check: Check, subject: Subject, patience_s: float = PATIENCE_S, *, away: Level = "fail"
) -> list[Finding]:
    """What a check found, or that the engine failed at it."""
    code = CODE_OF[check]
    try:
        async with asyncio.timeout(patience_s):
            return await check(subject)
    except TimeoutError:
        text = f"{subject.engine.name}: no answer within {patience_s:g} s"
        return [Finding(code, away, subject.side, text, "look at the server's log, or give it less to do")]
    except (EngineUnavailable, EngineTimeout) as error:
        return [Finding(code, away, subject.side, str(error), "start it, or give the address of one that is up")]
    except (EngineError, InputError) as error:
        return [Finding(code, "fail", subject.side, str(error))]


async def check_reachable(subject: Subject) -> list[Finding]:
    facts = await subject.facts()
    version = await version_of(subject.engine)
    numbered = f", {facts.vocabulary_size:,} ids" if facts.vocabulary_size else ""
    text = f"{facts.model}{numbered}{f', {version}' if version else ''}"
    return [Finding("reachable", "ok", subject.side, text)]


async def check_engine(subject: Subject) -> list[Finding]:
    """What the adapter of this kind of server warns of."""
    facts = await subject.facts()
    return [Finding("engine", "warn", subject.side, warning) for warning in facts.warnings]


async def check_context(subject: Subject) -> list[Finding]:
    tokens = (await subject.facts()).context_tokens
    budget = Routing().max_thinking_tokens + Routing().max_answer_tokens
    if tokens >= budget:
        return [Finding("context", "ok", subject.side, f"{tokens:,} tokens")]
    level: Level = "warn" if tokens < SMALLEST_CONTEXT_TOKENS else "note"
    return [
        Finding(
            "context",
            level,
            subject.side,
            f"{tokens:,} tokens, less than thought and answer may have together ({budget:,}): longer ones are cut",
            "serve the model with a larger context, or lower --max-thinking-tokens",
        )
    ]


async def check_call(subject: Subject) -> list[Finding]:
    """One token with everything the router sends; what comes with it is looked at by `_logprobs`."""
    ids = await subject.prompt_unopened()
    try:
        drawn = await subject.draw(ids, sampling=Sampling(temperature=0.6, top_p=0.95, seed=1))
    except (EngineProtocolError, ContextError) as error:
        return [await _refused(subject, ids, error)]
    prompt_tokens = drawn.usage.prompt_tokens
    if prompt_tokens and prompt_tokens != len(ids) and (await subject.facts()).takes_ids:
        return [
            Finding(
                "call",
                "warn",
                subject.side,
                f"{len(ids)} ids were sent and the engine counts {prompt_tokens}: it changes what it is sent",
                "switch off whatever adds tokens to prompts that are given as ids",
            ),
            *_logprobs(subject, drawn.tokens),
        ]
    text = "a token with every field that the router sends"
    return [Finding("call", "ok", subject.side, text), *_logprobs(subject, drawn.tokens)]


async def _refused(subject: Subject, ids: Sequence[int], error: Exception) -> Finding:
    """Is it the number of log-probabilities? Then say how many the engine would give."""
    for fewer in sorted({10, 5, 1, 0}, reverse=True):
        if fewer >= subject.top:
            continue
        try:
            drawn = await subject.draw(ids, top=fewer)
        except (EngineError, InputError):
            continue
        had = len(drawn.tokens[0].top) if drawn.tokens else 0
        wanted, subject.top = subject.top, had  # so that the other checks can go on
        text = f"it refuses to give {wanted} log-probabilities, but gives {had} ({error})"
        return Finding("logprobs", "fail", subject.side, text, _more_logprobs(wanted, had))
    return Finding("call", "fail", subject.side, f"it refuses what the router sends: {error}")


def _more_logprobs(wanted: int, had: int) -> str:
    start = f"start vLLM with --max-logprobs {wanted}"
    return f"{start}, or set glimpse_top = {had} under [routing]" if had >= 2 else start


def _logprobs(subject: Subject, tokens: Sequence[Token]) -> list[Finding]:
    if not subject.top:
        return []
    if not tokens:
        return [Finding("logprobs", "note", subject.side, "not seen: the model had nothing to write")]
    top = dict(tokens[0].top)
    if len(top) < 2:
        policies = "or route without glimpses: --policy small, large or random"
        return [
            Finding(
                "logprobs",
                "fail" if subject.glimpses else "warn",
                subject.side,
                f"{len(top)} of {subject.top} log-probabilities come with a token: no entropy can be known",
                f"start the server with log-probabilities allowed (vLLM: --max-logprobs {subject.top}), {policies}",
            )
        ]
    try:
        entropy_of(list(top.values()), 0)
    except EngineProtocolError as error:
        return [Finding("logprobs", "fail", subject.side, str(error), "use another version of the server")]
    if len(top) < subject.top:
        return [
            Finding(
                "logprobs",
                "warn",
                subject.side,
                f"{len(top)} of {subject.top} come with a token: no entropy exceeds {math.log(len(top)):.2f} nats, and "
                "thresholds found elsewhere do not hold",
                f"start vLLM with --max-logprobs {subject.top}, or calibrate the threshold on this engine",
            )
        ]
    return [Finding("logprobs", "ok", subject.side, f"{len(top)} of {subject.top} come with a token")]


async def check_ids(subject: Subject) -> list[Finding]:
    text = await subject.engine.decode(await subject.engine.encode(SAMPLE_TEXT))
    if text == SAMPLE_TEXT:
        return [Finding("ids", "ok", subject.side, "a text becomes ids and the same text again")]
    level: Level = "warn" if text.split() == SAMPLE_TEXT.split() else "fail"
    place = next((i for i, (a, b) in enumerate(zip(text, SAMPLE_TEXT, strict=False)) if a != b), len(text))
    return [
        Finding(
            "ids",
            level,
            subject.side,
            f"a text does not survive being made into ids: {SAMPLE_TEXT[place : place + 12]!r} became "
            f"{text[place : place + 12]!r}, so what the other model wrote would be changed at a hand-over",
            "give the model's own tokenizer files with --tokenizer FOLDER",
        )
    ]


async def check_drawn_ids(subject: Subject) -> list[Finding]:
    drawn = await subject.draw(await subject.prompt(), max_tokens=12, top=0)
    ids, text = [token.id for token in drawn.tokens], "".join(token.text for token in drawn.tokens)
    decoded = await subject.engine.decode(ids) if ids else ""
    # A character may have been cut by the limit: the one who decodes shows a mark for it.
    if decoded.rstrip("\ufffd") == text or decoded.startswith(text):
        return [Finding("drawn-ids", "ok", subject.side, "ids that it draws stand for the text that it sends")]
    return [
        Finding(
            "drawn-ids",
            "fail",
            subject.side,
            f"the ids that it draws do not stand for the text that it sends: {decoded[:24]!r} instead of {text[:24]!r}",
            "give the tokenizer files of the model that is served with --tokenizer FOLDER",
        )
    ]


async def check_temperature(subject: Subject) -> list[Finding]:
    ids = await subject.prompt()
    top = subject.top or 2
    seen = []
    for temperature in (1.0, 2.0):
        drawn = await subject.draw(ids, top=top, sampling=Sampling(temperature=temperature, top_p=1.0))
        seen.append(dict(drawn.tokens[0].top) if drawn.tokens else {})
    both = [id_ for id_ in seen[0] if id_ in seen[1] and math.isfinite(seen[0][id_]) and math.isfinite(seen[1][id_])]
    if len(both) < 2:
        return []
    moved = max(abs(seen[0][id_] - seen[1][id_]) for id_ in both)
    spread = max(seen[0][id_] for id_ in both) - min(seen[0][id_] for id_ in both)
    if moved <= max(RAW_WITHIN_NATS, 0.02 * spread):
        return [
            Finding("temperature", "ok", subject.side, f"log-probabilities are raw, {moved:.3f} nats apart at most")
        ]
    return [
        Finding(
            "temperature",
            "fail" if subject.glimpses else "note",
            subject.side,
            f"log-probabilities change with the temperature, by up to {moved:.2f} nats: entropies would be wrong",
            "set SGLANG_RETURN_ORIGINAL_LOGPROB=1 where SGLang runs; ask other servers with --temperature 1 only",
        )
    ]


async def check_thought(subject: Subject) -> list[Finding]:
    try:
        name = await subject.open_thought()
    except PairError as error:
        text, _, mend = str(error).partition("; ")
        return [Finding("thought", "fail", subject.side, text, mend)]
    return [Finding("thought", "ok", subject.side, f"its template can hold an open thought (format {name})")]


async def check_release(subject: Subject) -> list[Finding]:
    """Leave a long stream after two tokens: whoever comes next should not have to wait for its end."""
    ids = await subject.prompt()
    facts = await subject.facts()
    room = min(256, facts.context_tokens - len(ids) - 1)
    usual = await subject.draw(ids)
    begun = subject.clock()
    usage, seen = Usage(), 0
    sampling = Sampling(temperature=1.0, top_p=1.0, seed=2)
    async with subject.engine.generate(ids, sampling, max_tokens=max(1, room), top=0, usage=usage) as tokens:
        async for _ in tokens:
            seen += 1
            if seen == 2:
                break
        left = subject.clock()
    again = await subject.draw(ids)
    token_ms = max(0.0, (left - begun) * 1000 - usual.first_token_ms)
    found = []
    if usage.requests > 1:
        text = f"no streaming: tokens come in blocks, {usage.requests} requests for two tokens"
        found.append(Finding("stream", "warn", subject.side, text, "allow streaming where the server is configured"))
    else:
        found.append(Finding("stream", "ok", subject.side, "tokens are streamed"))
    waited_ms = again.first_token_ms - usual.first_token_ms
    if waited_ms > max(50.0, usual.first_token_ms, 0.25 * room * token_ms):
        text = f"a stream that was left kept the next call waiting for {waited_ms:,.0f} ms"
        mend = "no proxy may hold back that a client hangs up; give the server more slots (llama.cpp: --parallel)"
        return [*found, Finding("release", "warn", subject.side, text, mend)]
    text = f"a stream that is left frees the engine: the next first token after {again.first_token_ms:,.1f} ms"
    return [*found, Finding("release", "ok", subject.side, text)]


CODE_OF: dict[Check, str] = {
    check_reachable: "reachable",
    check_engine: "reachable",
    check_context: "context",
    check_call: "call",
    check_ids: "ids",
    check_thought: "thought",
    check_drawn_ids: "drawn-ids",
    check_temperature: "temperature",
    check_release: "release",
}
"""Every check in its order, and the code of what it says where the engine fails at it."""

CHECKS: tuple[Check, ...] = tuple(CODE_OF)
