"""`glimprouter evaluate NAME --data FILE` from the command line to graded lines; engines are scripted."""

import json
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from tests.evaluate.typed import run, scripted_pair  # noqa: F401 - a fixture


def test_a_published_suite_is_asked_and_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "aime.jsonl"
    data.write_text("".join(json.dumps({"id": n, "problem": f"Find {n}.", "answer": n}) + "\n" for n in (4, 5, 6)))
    out = tmp_path / "run"
    assert run("aime25", "--data", str(data), "--methods", "small,large", "--out", str(out)) == 0
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_bytes().splitlines()]
    right = {(line["gold"], line["method"]) for line in lines if line["correct"]}
    assert right == {("4", "small"), ("5", "large")}
    assert json.loads((out / "run.json").read_text())["settings"]["suite"] == "aime25"
    capsys.readouterr()
    assert run("aime25", "--data", str(data), "--out", str(tmp_path / "other")) == 2
    assert "give --random-p" in capsys.readouterr().err
