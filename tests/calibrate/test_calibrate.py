"""The verb and its profile, on the tiny pair; the job, on scripted engines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from glimprouter.calibrate.answers import AnswerStore
from glimprouter.calibrate.fingerprint import Model
from glimprouter.calibrate.job import Aim, Calibration
from glimprouter.calibrate.profile import profile_of, read_profile, with_profile, write_profile
from glimprouter.calibrate.prompts import Question, is_right, read_questions
from glimprouter.cli.main import main
from glimprouter.config import Routing, Sampling
from glimprouter.engines.scripted import Line, ScriptedEngine, Vocabulary
from glimprouter.errors import ConfigError
from glimprouter.flow import trace as traces
from glimprouter.flow.request import ask
from glimprouter.pair import Pair


def engines() -> tuple[ScriptedEngine, ScriptedEngine]:
    vocabulary = Vocabulary()
    lines = [Line(f"Step {place} of this thought.\n\n", 0.1 + 0.2 * place) for place in range(9)]
    small = ScriptedEngine(lines, answer="4", name="small", vocabulary=vocabulary)
    return small, ScriptedEngine(lines, answer="4", name="large", vocabulary=vocabulary)


QUESTIONS = [
    Question(str(number), f"What is {number}?", "4" if number % 2 else "5", "ab"[number % 2]) for number in range(8)
]


def calibration(store: AnswerStore, *, signal: str = "entropy", fail_after: int | None = None) -> Calibration:
    small, large = engines()
    small.fail_after_tokens = fail_after
    return Calibration(
        small, large, QUESTIONS, store, routing=Routing(), sampling=Sampling(), signal=signal, parallel=3
    )


def store(path: Path | None = None, **card: str) -> AnswerStore:
    gold = {one.id: one.answer for one in QUESTIONS}
    return AnswerStore(path, card, lambda question, text: text == gold[question])


@pytest.mark.parametrize("signal", ["entropy", "margin", "mean-entropy-2", "class-entropy"])
async def test_share_is_reached_by_every_signal(signal: str) -> None:
    result = await calibration(store(), signal=signal).result(Aim("step_share", 0.3))
    assert result.chosen is not None
    assert result.chosen.step_share.value == pytest.approx(0.3, abs=0.06)
    assert result.calibrated.signal == signal
    assert (result.calibrated.scale is not None) == (signal == "class-entropy")


async def test_a_family_has_a_threshold_of_its_own_from_its_own_questions() -> None:
    job = calibration(store())
    whole, family = await job.result(Aim("step_share", 0.3)), await job.result(Aim("step_share", 0.3), family="a")
    assert whole.points[0].questions == 8
    assert family.points[0].questions == 4


async def test_cost_is_held_and_the_curve_has_every_ratio() -> None:
    result = await calibration(store()).result(Aim("cost_ratio", 0.6))
    assert result.chosen is not None
    assert result.chosen.cost_ratio.value <= 0.61
    assert all(0 < point.cost_ratio.value < 1.3 for point in result.points)


async def test_too_few_questions_give_no_promise_but_how_many_it_would_take() -> None:
    result = await calibration(store()).result(Aim("accuracy", 0.05))
    assert result.chosen is None
    assert result.tested[0].questions_needed is not None
    assert result.tested[0].questions_needed > 40


async def test_a_margin_needs_answers() -> None:
    small, large = engines()
    job = Calibration(small, large, [Question("1", "Why?")], store(), routing=Routing(), sampling=Sampling())
    with pytest.raises(ConfigError, match="needs an answer to every question"):
        await job.result(Aim("accuracy", 0.05))


async def test_a_calibration_that_was_stopped_goes_on_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(Exception, match="out of order"):
        await calibration(store(path), fail_after=400).result(Aim("step_share", 0.3))
    before = path.read_bytes()
    path.write_bytes(before + b'{"question": "1", "run"')
    result = await calibration(store(path)).result(Aim("step_share", 0.3))
    whole = await calibration(store()).result(Aim("step_share", 0.3))
    assert result.chosen is not None
    assert whole.chosen is not None
    assert result.chosen.threshold == whole.chosen.threshold
    assert path.read_bytes().startswith(before)
    with pytest.raises(ConfigError, match="holds answers of another calibration"):
        store(path, models="others")


async def profile_for(path: Path, *, signal: str = "entropy") -> None:
    result = await calibration(store(), signal=signal).result(Aim("step_share", 0.3))
    model = Model("a", "scripted-0", "t")
    made = profile_of(result, {"odd family": 0.7}, model, model, routing=Routing(), sampling=Sampling())
    write_profile(path, made)
    assert read_profile(path) == made


@pytest.mark.parametrize("signal", ["entropy", "class-entropy"])
async def test_a_profile_routes_as_it_was_calibrated(tmp_path: Path, signal: str) -> None:
    path = tmp_path / "profile.toml"
    await profile_for(path, signal=signal)
    pair = await with_profile(Pair(*engines(), None), path, force=True)
    trace = await pair.router().answer(ask("What?", routing=Routing()))
    assert trace.large_step_share == pytest.approx(0.3, abs=0.06)
    family = await with_profile(Pair(*engines(), None), path, force=True, family="odd family")
    assert family.calibrated is not None
    assert family.calibrated.threshold == 0.7
    with pytest.raises(ConfigError, match="accepted: odd family"):
        await with_profile(pair, path, force=True, family="even")


async def test_a_profile_of_another_pair_is_refused_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    await profile_for(path)
    with pytest.raises(ConfigError, match=r"was made for another small model, a .*--force-profile"):
        await with_profile(Pair(*engines(), None), path)


def test_what_a_model_reads_tells_it_from_its_sister() -> None:
    mine = Model("a", "v", "t", (1.0, 0.5))
    assert not mine.differences(replace(mine, name="b", reads_nats=(1.04, 0.48)))
    assert mine.differences(replace(mine, reads_nats=(1.3, 0.5))) == ["the same text read 0.30 nats apart"]
    assert "vocabulary 'v', now 'w'" in mine.differences(replace(mine, vocabulary="w"))


def test_a_damaged_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    for text in ("", "threshold = 'x'", "[[", "version = 1"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="cannot be used"):
            read_profile(path)


def test_prompts_are_read_from_text_and_json_lines(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("First?\n\nSecond?\nFirst?\n")
    assert [one.text for one in read_questions(text)] == ["First?", "Second?"]
    lines.write_text('{"prompt": "2+2?", "answer": 4, "kind": "sum"}\n')
    assert read_questions(lines, family_field="kind") == [Question("1", "2+2?", "4", "sum")]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no question"), ("{", ":1: not JSON"), ('{"x": 1}', ":1: has no question"), ("3", ":1: is int")],
)
def test_prompts_that_cannot_be_used_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_questions(path)


@pytest.mark.parametrize(
    ("given", "gold", "right"),
    [("4", "4.0", True), ("1,200", "1200", True), (" Blue ", "blue", True), ("1/2", "0.5", True), ("5", "4", False),
     (None, "4", False), ("x", "4", False)],
)  # fmt: skip
def test_answers_are_the_same_number_or_the_same_words(given: str | None, gold: str, right: bool) -> None:
    assert is_right(given, gold) is right


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_from_prompts_to_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a user does: calibrate the pair at hand, then ask with the profile; another small model is refused."""
    prompts, profile, trace = (tmp_path / name for name in ("prompts.jsonl", "profile.toml", "trace.jsonl"))
    rows = [{"question": f"{a} + {a + 7} = ?", "answer": str(2 * a + 7)} for a in range(11, 17)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("calibrate", "--prompts", str(prompts), "--target-share", "0.3", "--write", str(profile)) == 0
    shown = capsys.readouterr().out
    assert "wanted: step share 0.3" in shown
    assert "chosen" in shown
    threshold = read_profile(profile).threshold
    assert run("ask", "11 + 18 = ?", "--profile", str(profile), "--trace", str(trace)) == 0
    assert next(traces.read(trace)).policy == f"glimpse(threshold={threshold:g})"
    weak = ("--small", "tiny-weak", "--large", "tiny-large")
    assert run("ask", "11 + 18 = ?", "--profile", str(profile), *weak) == 2
    assert "was made for another small model" in capsys.readouterr().err
    assert run("ask", "11 + 18 = ?", "--profile", str(profile), "--force-profile", *weak) == 0


def test_only_one_thing_can_be_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "a.txt"
    prompts.write_text("Why?\n")
    assert run("calibrate", "--prompts", str(prompts), "--target-share", "0.3", "--margin", "0.02") == 2
    assert "accepted: one of them" in capsys.readouterr().err
    assert run("calibrate", "--prompts", str(prompts), "--target-share", "1.3") == 2
    assert "between 0 and 1" in capsys.readouterr().err
