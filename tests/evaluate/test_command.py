"""`glimprouter evaluate` as it is typed; engines are scripted, questions are real."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("reasoning_gym")

from glimprouter.cli import evaluate, evaluate_run
from glimprouter.config import Config
from glimprouter.evaluate.profiles import read_profiles
from glimprouter.pair import Pair
from tests.evaluate.test_report import CLOSING
from tests.evaluate.typed import run, scripted_pair  # noqa: F401 - a fixture
from tests.evaluate.world import engines


def test_run_prints_tables_and_ends_with_the_closing_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tiny", "--n", "12", "--out", str(tmp_path / "run")) == 0
    *tables, last = capsys.readouterr().out.splitlines()
    assert [pair.partition("=")[0] for pair in last.split()] == CLOSING
    assert any("Accuracy by family" in line for line in tables)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["questions"] == 12


def test_same_folder_goes_on_and_show_prints_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "tiny",
        "--n",
        "12",
        "--methods",
        "large,glimpse,random",
        "--random-p",
        "0.3",
        "--out",
        str(tmp_path / "run"),
    )
    assert run(*arguments) == 0
    first = capsys.readouterr().out
    written = (tmp_path / "run" / "answers.jsonl").read_bytes()
    assert run(*arguments) == 0
    assert capsys.readouterr().out == first
    assert run("show", str(tmp_path / "run")) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "run" / "answers.jsonl").read_bytes() == written
    assert not (tmp_path / "run" / "pilot.jsonl").exists()


def test_quick_asks_fewer_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tiny", "--quick", "--methods", "small,large", "--out", str(tmp_path / "run")) == 0
    assert len((tmp_path / "run" / "answers.jsonl").read_bytes().splitlines()) == 2 * evaluate.QUICK_QUESTIONS
    assert capsys.readouterr().out.splitlines()[-1].startswith("large_accuracy=")


def test_calibration_prints_a_profile_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "profiles.toml"
    assert run("tiny", "--calibrate", "--n", "12", "--out", str(tmp_path / "c"), "--write-profile", str(file)) == 0
    out = capsys.readouterr().out
    (profile,) = read_profiles(file)
    assert (profile["small"], profile["large"]) == ("tiny-small", "tiny-large")
    assert f"threshold_nats = {profile['threshold_nats']}" in out
    assert "small thinks alone" in out
    assert run("show", str(tmp_path / "c")) == 0
    assert capsys.readouterr().out == out


def test_sweep_lists_its_thresholds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tiny", "--sweep", "--n", "12", "--methods", "large,share0", "--out", str(tmp_path / "run")) == 0
    out = capsys.readouterr().out
    assert "Thresholds" in out
    assert "within two points of large" in out


def test_another_configuration_in_the_same_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tiny", "--n", "12", "--methods", "small", "--out", str(tmp_path / "run")) == 0
    capsys.readouterr()
    assert run("tiny", "--n", "12", "--methods", "large", "--out", str(tmp_path / "run")) == 2
    assert "belongs to another run (settings.methods was ['small'], now ['large'])" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--methods", "small,lagre"], "names 'lagre'; accepted: small, large"),
        (["--methods", ""], "accepted: small, large"),
        (["--methods", "large-unstreamed"], "the large engine can only stream"),
        (["--n", "3"], "--n is 3; accepted: 6 or more"),
        (["--samples", "0"], "--samples is 0; accepted: 1 or more"),
        (["--concurrency", "0"], "--concurrency is 0; accepted: 1 or more"),
        (["--max-minutes", "0"], "--max-minutes is 0; accepted: above 0"),
        (["--max-large-tokens", "-5"], "--max-large-tokens is -5; accepted: above 0"),
        (["--random-grid", "0.2,x"], "--random-grid is '0.2,x'; accepted: numbers between 0 and 1"),
        (["--threshold", "-1"], "threshold is -1"),
        (["--threshold", "nan"], "threshold is nan"),
        (["--random-p", "1.5"], "random_p is 1.5"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--calibrate", "--sweep"], "give one of them"),
        (["--calibrate", "--target-share", "1"], "--target-share is 1; accepted: between 0 and 1"),
        (["--write-profile", "x.toml"], "give both"),
    ],
)
def test_bad_input_ends_in_one_line_that_says_what_to_do(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tiny", *arguments, "--out", str(tmp_path / "run")) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("tiny", "--n", "6", "--out", str(tmp_path / "file")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_missing_reasoning_gym_is_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("tiny", "--n", "6") == 2
    assert "pip install 'glimprouter[eval]'" in capsys.readouterr().err


def test_an_engine_that_fails_ends_the_run_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def open_pair(*args: Any, **kwargs: Any) -> AsyncIterator[Pair]:
        small, large = engines()
        small.fail_after_tokens = 200
        yield Pair(small, large, 0.9)

    monkeypatch.setattr(evaluate_run, "open_pair", open_pair)
    out = tmp_path / "run"
    assert run("tiny", "--n", "12", "--methods", "large,small", "--out", str(out)) == 1
    err = capsys.readouterr().err
    assert f"the same options with --out {out} go on" in err
    assert "out of order" in err
    assert (out / "answers.jsonl").stat().st_size > 0


def test_a_spent_budget_is_no_failure_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("tiny", "--n", "12", "--methods", "small,large", "--out", str(tmp_path / "run"))
    assert run(*arguments, "--max-large-tokens", "40") == 0
    err = capsys.readouterr().err
    assert "stopped: --max-large-tokens 40 are used up" in err
    assert f"with --out {tmp_path / 'run'} go on" in err
    assert run(*arguments) == 0
    assert "large_accuracy=" in capsys.readouterr().out


def test_show_of_no_run_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", str(tmp_path)) == 2
    assert "give the folder of a run" in capsys.readouterr().err


def test_pair_specs_default_to_the_pair_that_ships() -> None:
    assert evaluate_run.specs(Config()) == ("tiny-small", "tiny-large")
