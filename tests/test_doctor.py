"""What a look at two models together finds: dear returns, differing vocabularies, a large model that is none."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from glimprouter.config import Routing, Side
from glimprouter.doctor import Report, diagnose
from glimprouter.engines.findings import CODES, Finding
from glimprouter.engines.paced import Sleep
from glimprouter.engines.pool import Pool
from glimprouter.engines.scripted import Line, Pace, Script, ScriptedEngine, Vocabulary
from glimprouter.errors import ModelError
from glimprouter.flow.engine import Engine, EngineFacts

ROOT = Path(__file__).parent.parent
STORY = [Line(f"Step {number} adds {number} apples to all the others in the box.\n\n", 0.5) for number in range(20)]
SMALL_PACE = Pace(first_token_ms=40, token_ms=12.8, prefill_token_ms=0.2)
LARGE_PACE = Pace(first_token_ms=90, token_ms=26.9, prefill_token_ms=0.8)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s

    def engine(self, pace: Pace, *, vocabulary: Vocabulary | None = None, name: str = "scripted") -> ScriptedEngine:
        return ScriptedEngine(STORY, pace=pace, sleep=self.sleep, vocabulary=vocabulary, name=name)


class Forgetful(ScriptedEngine):
    """Keeps no prefix: no block of its cache is ever full."""

    def __init__(self, script: Script, *, pace: Pace, sleep: Sleep) -> None:
        super().__init__(script, pace=replace(pace, block_tokens=10**6), sleep=sleep)


async def report_of(
    small: Engine | Exception, large: Engine | Exception, *, clock: Clock | None = None, routing: Routing | None = None
) -> Report:
    engines: dict[Side, Engine | Exception] = {"small": small, "large": large}
    return await diagnose(engines, routing=routing, clock=clock or Clock(), patience_s=5.0)


def of(report: Report, code: str, side: Side | None = None) -> Finding:
    return next(finding for finding in report.findings if (finding.code, finding.side) == (code, side))


async def test_a_good_pair_works_and_its_numbers_are_those_of_its_engines() -> None:
    clock = Clock()
    report = await report_of(clock.engine(SMALL_PACE), clock.engine(LARGE_PACE), clock=clock)
    assert report.works
    assert {finding.level for finding in report.findings} == {"ok"}
    assert report.large_over_small == pytest.approx(26.9 / 12.8)
    assert report.measured["large"].first_token_ms == pytest.approx(90, rel=0.02)
    assert report.measured["large"].prefill_token_ms == pytest.approx(0.8, rel=0.05)
    assert report.proposed == {}


async def test_a_large_model_without_a_prefix_cache_should_stay_longer() -> None:
    clock = Clock()
    large = Forgetful(STORY, pace=LARGE_PACE, sleep=clock.sleep)
    report = await report_of(clock.engine(SMALL_PACE), large, clock=clock)
    assert report.works
    found = of(report, "reentry", "large")
    assert found.level == "warn"
    # 3,000 tokens at 0.8 ms, against a quarter of 34 tokens at 26.9 ms.
    assert report.proposed == {"large_min_stay_steps": 11}
    assert found.mend == "set large_min_stay_steps = 11 under [routing]"
    assert "610 of 610 tokens are read again" in found.text
    assert of(report, "reentry", "small").level == "ok"


async def test_a_small_model_without_a_prefix_cache_should_be_called_back_less_often() -> None:
    clock = Clock()
    small = Forgetful(STORY, pace=SMALL_PACE, sleep=clock.sleep)
    report = await report_of(small, clock.engine(LARGE_PACE), clock=clock)
    # 3,000 tokens at 0.2 ms, against a quarter of a step of each model.
    assert report.proposed == {"small_min_stay_steps": 6, "large_min_stay_steps": 3}


async def test_what_is_proposed_is_what_the_routing_takes() -> None:
    clock = Clock()
    small, large = (Forgetful(STORY, pace=pace, sleep=clock.sleep) for pace in (SMALL_PACE, LARGE_PACE))
    report = await report_of(small, large, clock=clock)
    assert Routing(**report.proposed).large_min_stay_steps == 11  # type: ignore[arg-type]


async def test_differing_vocabularies_are_named_with_where_they_differ() -> None:
    clock = Clock()
    other = clock.engine(LARGE_PACE, vocabulary=Vocabulary(first_id=50_000))
    report = await report_of(clock.engine(SMALL_PACE), other, clock=clock)
    assert report.works
    found = of(report, "vocabulary")
    assert found.level == "note"
    assert "numbers" in found.text
    assert "text is encoded once at each hand-over" in found.text
    assert "<think>" in of(report, "control").text


async def test_control_tokens_that_differ_in_one_vocabulary_are_named() -> None:
    class Kin(ScriptedEngine):
        async def encode(self, text: str, *, special: bool = False) -> list[int]:
            return [7] if special and text == "<think>" else await super().encode(text, special=special)

    report = await report_of(ScriptedEngine(STORY), Kin(STORY))
    assert of(report, "vocabulary").level == "ok"
    assert of(report, "control").level == "note"
    assert "<think>" in of(report, "control").text
    assert "</think>" not in of(report, "control").text


async def test_a_model_that_takes_text_only_is_said_to() -> None:
    class Text(ScriptedEngine):
        async def facts(self) -> EngineFacts:
            return replace(await super().facts(), takes_ids=False)

    report = await report_of(ScriptedEngine(STORY), Text(STORY))
    assert report.works
    assert "large model takes text only" in of(report, "vocabulary").text


async def test_two_models_of_one_speed_leave_little_to_win() -> None:
    clock = Clock()
    report = await report_of(clock.engine(LARGE_PACE), clock.engine(LARGE_PACE), clock=clock)
    assert of(report, "ratio").level == "warn"


async def test_a_side_that_could_not_be_opened_does_not_keep_the_other_from_being_looked_at() -> None:
    error = ModelError("--large http://x: no server that can be used: refused; give the address of one", field="large")
    report = await report_of(ScriptedEngine(STORY), error)
    assert not report.works
    found = of(report, "reachable", "large")
    assert (found.level, found.mend) == ("fail", "give the address of one")
    assert of(report, "reachable", "small").level == "ok"
    assert not any(finding.side is None for finding in report.findings)


async def test_a_small_model_without_log_probabilities_works_where_nobody_glimpses() -> None:
    class Mute(ScriptedEngine):
        def generate(self, *args: object, top: int, **options: object) -> AbstractAsyncContextManager:  # type: ignore[type-arg, override]
            return super().generate(*args, top=0, **options)  # type: ignore[arg-type]

    report = await report_of(Mute(STORY), ScriptedEngine(STORY))
    assert not report.works
    assert of(report, "logprobs", "small").level == "fail"
    report = await report_of(Mute(STORY), ScriptedEngine(STORY), routing=Routing(policy="random"))
    assert report.works
    assert of(report, "logprobs", "small").level == "warn"


async def test_replicas_are_counted_and_what_is_wrong_with_one_of_them_is_said() -> None:
    broken = ScriptedEngine(STORY, name="b", fail_after_tokens=0)

    class Away(ScriptedEngine):
        async def facts(self) -> EngineFacts:
            self._fail_if_due()
            return await super().facts()

    pool = Pool([ScriptedEngine(STORY, name="a"), broken, Away(STORY, name="c", fail_after_tokens=0)])
    report = await report_of(pool, ScriptedEngine(STORY))
    assert not report.works
    counted, away = [finding for finding in report.findings if finding.code == "replicas"]
    assert (counted.level, counted.text) == ("ok", "2 of 3 addresses answer")
    assert away.level == "warn"
    (failed,) = [finding for finding in report.findings if finding.level == "fail"]
    assert failed.text.startswith("b: ")


def test_every_code_is_in_the_documents_table_and_used() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    table = page.partition("## What is looked at")[2]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(CODES)
    sources = [*(ROOT / "src" / "glimprouter" / "engines").glob("*.py"), ROOT / "src" / "glimprouter" / "doctor.py"]
    code = "".join(path.read_text(encoding="utf-8") for path in sources if path.name != "findings.py")
    assert {name for name in CODES if f'"{name}"' not in code} == set()
