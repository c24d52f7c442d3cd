"""Can these two models work together, and how well? Examines both engines, then what lies between them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from glimprouter.config import SIDES, Routing, Side
from glimprouter.engines.findings import Finding, Level
from glimprouter.engines.pace import THOUGHT_TOKENS, Measured, measure_cache, measure_pace
from glimprouter.engines.pool import Pool
from glimprouter.engines.probe import PATIENCE_S, examine
from glimprouter.engines.subject import Subject
from glimprouter.errors import EngineError, InputError
from glimprouter.flow.engine import Engine, EngineFacts

REENTRY_SHARE = 0.25
"""Coming back may cost this share of the time that is then written for; beyond it a longer stay is proposed."""

MOST_STAY_STEPS = 32
LEAST_RATIO = 1.5
"""A large model that is slower by less than this leaves little to win."""

SAMPLES = {
    "words": "The answer follows, because of this.",
    "numbers": "1234567890 3.14159",
    "blank lines": "So:\n\n\n\tx = 1\n\n",
    "code and maths": "def f(x):\n        return x**2  # \\frac{1}{2} $$x_{i}$$",
    "other scripts": "你好,世界。 Привет 안녕하세요 \U0001f600",
}
CONTROL_TOKENS = (
    *("<think>", "</think>", "[THINK]", "[/THINK]", "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<s>", "</s>"),
)


@dataclass(slots=True)
class Report:
    """All findings, both engines' first, and the numbers behind them. `large_over_small`: times per token."""

    findings: list[Finding] = field(default_factory=list)
    measured: dict[Side, Measured] = field(default_factory=dict)
    large_over_small: float | None = None
    proposed: dict[str, int] = field(default_factory=dict)
    """Routing options worth setting for this pair."""

    @property
    def works(self) -> bool:
        return not any(finding.level == "fail" for finding in self.findings)


async def diagnose(
    engines: Mapping[Side, Engine | Exception],
    *,
    routing: Routing | None = None,
    clock: Callable[[], float] = time.perf_counter,
    patience_s: float = PATIENCE_S,
) -> Report:
    """Examine a pair, or as much of it as could be opened. One engine is idle while the other is timed.

    `clock` is in seconds. Raises nothing of the engines': what fails is a finding.
    """
    routing = routing or Routing()
    report = Report()
    subjects: dict[Side, Subject] = {}
    glimpses = routing.policy == "glimpse"
    for side in SIDES:
        opened = engines[side]
        if isinstance(opened, Exception):
            report.findings.append(Finding("reachable", "fail", side, *_text_and_mend(opened)))
            continue
        replicas, found = await _replicas(opened, side)
        report.findings += found
        top = routing.glimpse_top if side == "small" else 0
        for number, engine in enumerate(replicas):
            subject = Subject(engine, side, top=top, glimpses=glimpses, clock=clock)
            seen = await examine(subject, patience_s=patience_s)
            if number == 0:
                report.findings += seen
                if all(finding.level != "fail" for finding in seen):
                    subjects[side] = subject
                    report.findings += await _measure(subject, report, patience_s)
            else:
                report.findings += _others(seen, engine.name, report.findings)
    if len(subjects) == len(SIDES):
        report.findings += await _between(subjects, report, patience_s)
    return report


def _text_and_mend(error: Exception) -> tuple[str, str]:
    text, _, mend = str(error).rpartition("; ")
    return (text, mend) if text else (mend, "")


async def _replicas(engine: Engine, side: Side) -> tuple[list[Engine], list[Finding]]:
    """The replicas that answer; one that does not is no reason to stop."""
    if not isinstance(engine, Pool) or len(engine.engines) == 1:
        return list(engine.engines) if isinstance(engine, Pool) else [engine], []
    up: list[Engine] = []
    found: list[Finding] = []
    for replica in engine.engines:
        try:
            await replica.facts()
        except (EngineError, InputError) as error:
            found.append(Finding("replicas", "warn", side, *_text_and_mend(error)))
        else:
            up.append(replica)
    level: Level = "ok" if up else "fail"
    return up, [Finding("replicas", level, side, f"{len(up)} of {len(engine.engines)} addresses answer"), *found]


def _others(seen: list[Finding], name: str, said: list[Finding]) -> list[Finding]:
    """What is wrong with a further replica and was not said of the first."""
    known = {(finding.side, finding.code, finding.text) for finding in said}
    return [
        Finding(one.code, one.level, one.side, f"{name}: {one.text}", one.mend)
        for one in seen
        if one.level in ("warn", "fail") and (one.side, one.code, one.text) not in known
    ]


async def _measure(subject: Subject, report: Report, patience_s: float) -> list[Finding]:
    """Times and cache of one model. A model that cannot be timed can still work: that is a warning."""
    measured = report.measured[subject.side] = Measured()
    measured.context_tokens = (await subject.facts()).context_tokens
    found: list[Finding] = []
    for measure, code in ((measure_pace, "pace"), (measure_cache, "cache")):
        try:
            async with asyncio.timeout(2 * patience_s):
                found += await measure(subject, measured)
        except TimeoutError:
            found.append(Finding(code, "warn", subject.side, f"not measured within {2 * patience_s:g} s"))
        except (EngineError, InputError) as error:
            found.append(Finding(code, "warn", subject.side, f"not measured: {error}"))
    return found


# Between the two -----------------------------------------------------------------------------------------------------


async def _between(subjects: dict[Side, Subject], report: Report, patience_s: float) -> list[Finding]:
    try:
        async with asyncio.timeout(patience_s):
            found = await compare_vocabularies(subjects["small"].engine, subjects["large"].engine)
    except (EngineError, InputError, TimeoutError) as error:
        found = [Finding("vocabulary", "fail", None, f"cannot be compared: {str(error) or 'no answer'}")]
    return [*found, *compare_paces(report), *propose_stays(report)]


async def compare_vocabularies(small: Engine, large: Engine) -> list[Finding]:
    """Are ids handed over, or text; and where do the models number alike, where not?"""
    mine, theirs = await small.facts(), await large.facts()
    if not (mine.takes_ids and theirs.takes_ids):
        which = " and ".join(side for side, facts in (("small", mine), ("large", theirs)) if not facts.takes_ids)
        text = f"the {which} model takes text only: text is handed over, and read again as such at every hand-over"
        return [Finding("vocabulary", "note", None, text)]
    control = await _controls_that_differ(small, large)
    listed = ", ".join(control)
    if mine.vocabulary != theirs.vocabulary:
        differ = [name for name, text in SAMPLES.items() if await small.encode(text) != await large.encode(text)]
        where = f"they differ in {', '.join(differ)}" if differ else "they differ in rare texts"
        text = f"the models number their tokens differently ({where}): text is encoded once at each hand-over"
        return [Finding("vocabulary", "note", None, text), *_of_controls(control, listed)]
    padded = "" if mine.vocabulary_size == theirs.vocabulary_size else _padding(mine, theirs)
    text = f"the models number their tokens alike: ids are handed over{padded}"
    return [Finding("vocabulary", "ok", None, text), *_of_controls(control, listed)]


def _padding(small: EngineFacts, large: EngineFacts) -> str:
    return f" (sizes differ: {small.vocabulary_size:,} and {large.vocabulary_size:,})"


def _of_controls(control: list[str], listed: str) -> list[Finding]:
    if not control:
        return [Finding("control", "ok", None, "control tokens have the same ids in both")]
    text = f"control tokens have other ids, or are none, in one of them: {listed}; each model gets its own"
    return [Finding("control", "note", None, text)]


async def _controls_that_differ(small: Engine, large: Engine) -> list[str]:
    differ = []
    for token in CONTROL_TOKENS:
        mine = await small.encode(token, special=True)
        theirs = await large.encode(token, special=True)
        if mine != theirs and 1 in (len(mine), len(theirs)):
            differ.append(token)
    return differ


def compare_paces(report: Report) -> list[Finding]:
    small, large = report.measured["small"].token_ms, report.measured["large"].token_ms
    if not small or not large:
        return []
    report.large_over_small = ratio = large / small
    text = f"a token of the large model takes {ratio:.1f} times as long as one of the small model"
    if ratio >= LEAST_RATIO:
        return [Finding("ratio", "ok", None, text)]
    mend = "take a smaller small model, or give the two different hardware"
    return [Finding("ratio", "warn", None, f"{text}: there is little to win", mend)]


def propose_stays(report: Report) -> list[Finding]:
    """Where coming back is dear, a model should write for longer once it has come.

    The small model also comes back to glimpse after every stay of the large one: where that is dear, the large model's
    stay is what makes it rarer.
    """
    found = []
    for side in SIDES:
        mine = report.measured[side]
        if mine.reread_tokens is None or mine.reread_ms is None:
            continue
        cost_ms = mine.thought_reread_ms or 0.0
        text = _reentry_text(mine)
        stayers: tuple[Side, ...] = SIDES if side == "small" else ("large",)
        stays = {
            f"{author}_min_stay_steps": _stay_steps(cost_ms, report.measured[author].step_ms) for author in stayers
        }
        stays = {name: steps for name, steps in stays.items() if steps > 1}
        if not stays:
            found.append(Finding("reentry", "ok", side, text))
            continue
        for name, steps in stays.items():
            report.proposed[name] = max(steps, report.proposed.get(name, 1))
        wanted = " and ".join(f"{name} = {steps}" for name, steps in stays.items())
        dear = (
            f"{text}; in a thought of {THOUGHT_TOKENS:,} tokens that is some {cost_ms:,.0f} ms, "
            f"and it writes a step in {mine.step_ms or 0:,.0f} ms"
        )
        found.append(Finding("reentry", "warn", side, dear, f"set {wanted} under [routing]"))
    return found


def _reentry_text(mine: Measured) -> str:
    seen = mine.prompt_tokens
    kept = seen - (mine.reread_tokens or 0)
    return (
        f"to come back one step later takes {mine.reentry_first_token_ms or 0:,.1f} ms to the first token: "
        f"{mine.reread_tokens:,} of {seen:,} tokens are read again ({kept / max(1, seen):.0%} kept)"
    )


def _stay_steps(cost_ms: float, step_ms: float | None) -> int:
    """How many steps a stay must have for what it costs to be a small share of it."""
    if not step_ms:
        return 1
    return max(1, min(MOST_STAY_STEPS, math.ceil(cost_ms / (REENTRY_SHARE * step_ms))))
