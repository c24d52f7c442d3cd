"""From a share to a threshold: read off, measured, corrected, and never on what is reported."""

import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from glimprouter.config import Routing
from glimprouter.errors import ConfigError
from glimprouter.evaluate.calibration import Calibration, Calibrator, sweep_thresholds, threshold_for
from glimprouter.evaluate.job import Answered, CalibrationRun, recalibrate
from glimprouter.evaluate.profiles import profile_of, read_profiles, snippet, write_profile
from glimprouter.evaluate.records import Outcome
from glimprouter.flow import trace as traces
from tests.evaluate.world import begun, engines, outcome, problems, runner, settings

World = Callable[[float], Sequence[Outcome]]


def test_threshold_leaves_the_wanted_share_of_tokens_above_it() -> None:
    glimpses = [(2.0, 10), (1.0, 30), (0.5, 40), (0.1, 20)]
    assert threshold_for(glimpses, 0.4) == 0.75
    assert threshold_for(glimpses, 0.1) == 1.5
    assert threshold_for(glimpses, 0.99) == 0.05
    assert threshold_for(glimpses, 0.001) > 2.0


def test_equal_entropies_go_to_one_side_together() -> None:
    assert threshold_for([(1.0, 10)] * 5 + [(0.2, 10)] * 5, 0.3) == pytest.approx(0.6)
    assert threshold_for([], 0.3) == 0.0


def test_sweep_runs_from_few_steps_by_large_to_many() -> None:
    grid = sweep_thresholds([(value / 100, 10) for value in range(1, 101)])
    assert grid == sorted(grid, reverse=True)
    assert len(grid) == 8
    assert sweep_thresholds([(0.5, 10)] * 100) == [0.51, 0.25]


def world(*, drift: float, atoms: int = 0) -> World:
    """Answers of ten steps whose entropies grow by `drift` times the share that large writes; large writes longer
    ones. With `atoms`, entropies take so many values only."""
    rng = random.Random(3)
    base = [[rng.expovariate(2.0) for _ in range(10)] for _ in range(60)]
    if atoms:
        base = [[round(value * atoms) / atoms for value in one] for one in base]

    def run(threshold_nats: float) -> Sequence[Outcome]:
        answers = []
        for number, entropies in enumerate(base):
            shown, large = list[tuple[float, int]](), 0
            for value in entropies:
                value *= 1 + drift * (large > 0)
                tokens = 15 if value > threshold_nats else 10
                large += tokens if value > threshold_nats else 0
                shown.append((value, tokens))
            total = sum(tokens for _, tokens in shown)
            answers.append(outcome(str(number), "glimpse", tokens=total, large_tokens=large, glimpses=shown))
        return answers

    return run


def calibrated(run: World, target: float) -> tuple[Calibration, int]:
    calibrator = Calibrator(Routing(), target)
    rounds = 0
    while (method := calibrator.next_method()) is not None:
        threshold = method.routing.threshold
        calibrator.take(run(100.0 if threshold is None else threshold))
        rounds += 1
    return calibrator.result(), rounds


@pytest.mark.parametrize("target", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("drift", [0.0, 0.5, -0.5])
def test_share_settles_although_routing_moves_the_entropies(target: float, drift: float) -> None:
    result, rounds = calibrated(world(drift=drift), target)
    assert result.chosen.token_share == pytest.approx(target, abs=0.015)
    assert result.settled
    assert rounds <= 12


def test_a_share_that_jumps_is_said_to_have_jumped() -> None:
    result, _ = calibrated(world(drift=0.0, atoms=1), 0.2)
    assert not result.settled
    assert result.chosen in result.curve


def test_curve_begins_with_small_alone_and_rises_with_falling_threshold() -> None:
    result, _ = calibrated(world(drift=0.2), 0.25)
    shares = [point.token_share for point in result.curve]
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert result.questions == 60


async def calibration_run(path: Path, *, stop_after: int | None = None) -> CalibrationRun:
    asked = settings(mode="calibrate", methods=())
    job = CalibrationRun(runner(*engines()), begun(path, asked), asked, questions=problems(6, split="calibrate"))
    count = 0
    async with aclosing(job.run()) as events:
        async for event in events:
            count += isinstance(event, Answered)
            if count == stop_after:
                break
    return job


async def test_calibration_asks_calibration_questions_only(tmp_path: Path) -> None:
    job = await calibration_run(tmp_path / "run")
    asked = {trace.messages[0]["content"] for trace in traces.read(tmp_path / "run" / "answers.jsonl")}
    assert asked == {problem.question for problem in problems(6, split="calibrate")}
    chosen = job.result().chosen
    assert 0.05 < chosen.threshold_nats < 1.8
    assert chosen.step_share == pytest.approx(0.25)


async def test_a_stopped_calibration_goes_through_the_same_thresholds(tmp_path: Path) -> None:
    whole = (await calibration_run(tmp_path / "whole")).result()
    await calibration_run(tmp_path / "stopped", stop_after=9)
    again = (await calibration_run(tmp_path / "stopped")).result()
    assert again.chosen == whole.chosen
    assert len(list(traces.read(tmp_path / "stopped" / "answers.jsonl"))) == len(
        list(traces.read(tmp_path / "whole" / "answers.jsonl"))
    )


async def test_a_finished_calibration_can_be_shown_without_engines(tmp_path: Path) -> None:
    job = await calibration_run(tmp_path / "run")
    shown = recalibrate(begun(tmp_path / "run", settings(mode="calibrate", methods=())))
    assert (shown.chosen, shown.target_share) == (job.result().chosen, 0.25)


async def test_an_unfinished_calibration_is_not_taken_for_one(tmp_path: Path) -> None:
    await calibration_run(tmp_path / "run", stop_after=3)
    with pytest.raises(ConfigError, match="cannot be read"):
        recalibrate(begun(tmp_path / "run", settings(mode="calibrate", methods=())))


def test_profile_replaces_the_pair_s_earlier_one_and_leaves_others(tmp_path: Path) -> None:
    result, _ = calibrated(world(drift=0.0), 0.25)
    path = tmp_path / "profiles.toml"
    write_profile(path, profile_of(result, 'a "quoted" name', "large"))
    write_profile(path, profile_of(result, "tiny-small", "tiny-large"))
    better, _ = calibrated(world(drift=0.0), 0.5)
    write_profile(path, profile_of(better, "tiny-small", "tiny-large"))
    first, second = read_profiles(path)
    assert first["small"] == 'a "quoted" name'
    assert first["threshold_nats"] == result.chosen.threshold_nats
    assert second["threshold_nats"] == better.chosen.threshold_nats
    assert isinstance(second["threshold_nats"], float)


def test_snippet_names_pair_threshold_and_origin() -> None:
    result, _ = calibrated(world(drift=0.0), 0.25)
    lines = snippet(profile_of(result, "s", "l")).splitlines()
    assert lines[:3] == ["[[profile]]", 'small = "s"', 'large = "l"']
    assert lines[3] == f"threshold_nats = {result.chosen.threshold_nats!r}"
    assert lines[-1] == "questions = 60"


def test_a_file_of_other_settings_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('small = "x"\n')
    result, _ = calibrated(world(drift=0.0), 0.25)
    with pytest.raises(ConfigError, match="holds other settings"):
        write_profile(path, profile_of(result, "s", "l"))
    assert path.read_text() == 'small = "x"\n'
