"""`glimprouter ask` as a user runs it: the tiny pair on llama.cpp, real processes, real files, real mistakes."""

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path

import pytest

from glimprouter.cli.main import main
from glimprouter.flow import trace as traces

QUESTION = "Solve the following multiplication: 4 * 6. Give only the result as your final answer."
SMALL, LARGE = (str(files("glimprouter.models") / f"tiny-{size}.gguf") for size in ("small", "large"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one call."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a call with bad input says: exit code 2, one line, no traceback, nothing on standard output."""
    code, out, err = run(capsys, "ask", *arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    return err


def test_the_tiny_pair_answers_and_says_who_wrote_what(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "ask", QUESTION, "--temperature", "0", "--no-color")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("s small: tiny-small   L large: tiny-large   glimpse(threshold=")
    assert "Multiply 4 by 6 at once." in out
    assert any(line.strip() == "answer  24" for line in lines)
    assert "steps" in lines[-1]
    assert "discarded" in lines[-1]
    assert "hand-overs" in lines[-1]
    assert "\x1b" not in out


def test_json_is_the_whole_trace_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ask", QUESTION, "--temperature", "0", "--json")
    trace = json.loads(out)
    assert code == 0
    assert trace["answer"]["text"].strip() == "24"
    assert trace["thought_end"] == "closed"
    assert all(step["glimpse"]["low_nats"] <= step["glimpse"]["high_nats"] for step in trace["steps"])
    assert trace["steps"][0]["text"] == "Multiply 4 by 6 at once.\n\n"


def test_the_question_may_come_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(QUESTION + "\n"))
    code, out, _ = run(capsys, "ask", "-", "--temperature", "0", "--json")
    assert code == 0
    assert json.loads(out)["messages"][0]["content"] == QUESTION


def test_traces_are_appended(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for policy in ("small", "large"):
        assert run(capsys, "ask", QUESTION, "--policy", policy, "--seed", "7", "--trace", str(path))[0] == 0
    first, second = traces.read(path)
    assert {step.author for step in first.steps} == {"small"}
    assert {step.author for step in second.steps} == {"large"}
    assert first.sampling.seed == 7


def test_the_same_seed_gives_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    question = "State the final answer to the following arithmetic problem: 67 - 81 + 45 ="
    arguments = ("ask", question, "--seed", "5", "--temperature", "1.2", "--policy", "small", "--json")
    once, again = (json.loads(run(capsys, *arguments)[1]) for _ in range(2))
    assert [step["ids"] for step in once["steps"]] == [step["ids"] for step in again["steps"]]


def test_a_config_file_is_overruled_by_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "glimprouter.toml"
    config.write_text(
        f'small = "mine"\nlarge = "{LARGE}"\n[models]\nmine = "{SMALL}"\n'
        '[routing]\nthreshold = 1.3\npolicy = "random"\n[sampling]\ntemperature = 0\n'
    )
    code, out, _ = run(capsys, "ask", QUESTION, "--config", str(config), "--policy", "glimpse", "--json")
    trace = json.loads(out)
    assert code == 0
    assert trace["policy"] == "glimpse(threshold=1.3)"
    assert trace["sampling"]["temperature"] == 0


def test_a_pair_without_a_profile_gets_the_published_threshold_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "ask", QUESTION, "--small", SMALL, "--large", LARGE, "--json")
    assert code == 0
    assert json.loads(out)["policy"] == "glimpse(threshold=0.9)"
    assert "glimprouter trace summary" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((" ",), "the question is empty"),
        ((QUESTION, "--threshold", "nan"), "threshold is nan; accepted: a number from 0 to 100"),
        ((QUESTION, "--policy", "glimpze"), "policy is 'glimpze'; accepted: glimpse, small, large, random"),
        ((QUESTION, "--temperature", "-1"), "temperature is -1.0; accepted: a number from 0 to 5"),
        ((QUESTION, "--answer-by", "both"), "answer_by is 'both'; accepted: small, large"),
        ((QUESTION, "--small", SMALL), "give both, or neither for the tiny pair"),
        ((QUESTION, "--small", "no.gguf", "--large", LARGE), "--small no.gguf: no such file"),
        ((QUESTION, "--small", SMALL, "--large", "http://127.0.0.1:1"), "--large http://127.0.0.1:1"),
        ((QUESTION, "--trace", "/no/such/folder/t.jsonl"), "--trace /no/such/folder/t.jsonl: cannot be written"),
        ((QUESTION, "--config", "/no/such.toml"), "--config /no/such.toml: cannot be read"),
        (("7 " * 20_000,), "the question takes"),
        ((QUESTION, "--stop", ""), "stop holds an empty string"),
        ((QUESTION, "--bogus"), "No such option"),
    ],
)
def test_bad_input_is_named_with_the_mend(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], said: str
) -> None:
    assert said in refused(capsys, *arguments)


def test_an_unknown_config_key_is_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[routing]\ntreshold = 1.0\n")
    assert "Did you mean routing.threshold?" in refused(capsys, QUESTION, "--config", str(config))


def test_a_damaged_model_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(Path(SMALL).read_bytes()[:100_000])
    said = refused(capsys, QUESTION, "--small", str(damaged), "--large", LARGE)
    assert f"--small {damaged}" in said
    assert "GGUF" in said


def test_a_port_that_somebody_else_uses_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>not an engine</html>"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            code, out, err = run(capsys, "ask", QUESTION, "--small", url, "--large", LARGE)
        finally:
            server.shutdown()
    assert code in (1, 2)
    assert out == ""
    assert url in err
    assert "Traceback" not in err


def children_of(pid: int) -> list[int]:
    """Pids of the processes that `pid` started."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


@contextmanager
def asking(trace: Path) -> Iterator[subprocess.Popen[str]]:
    """An `ask` in a process of its own that is long at it: far too hot, and of many seeds the most long-winded."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "glimprouter", "ask", QUESTION, "--temperature", "5", "--top-p", "1"),
            *("--policy", "large", "--seed", "4", "--trace", str(trace)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert "small: tiny-small" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def gone(pids: Sequence[int], *, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_stops_both_engines_and_still_prints_what_was_written(tmp_path: Path) -> None:
    with asking(tmp_path / "t.jsonl") as process:
        engines = children_of(process.pid)
        assert len(engines) == 2
        assert process.stdout is not None
        process.stdout.read(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "stopped: cancelled" in out
    assert "Traceback" not in err
    assert gone(engines, within_s=2)
    (trace,) = traces.read(tmp_path / "t.jsonl")
    assert trace.error == "cancelled"
    assert "cancelled" in (trace.thought_end, trace.answer and trace.answer.end)
    assert trace.thought


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_engine_killed_inside_a_step_ends_the_answer_and_keeps_the_trace(tmp_path: Path) -> None:
    with asking(tmp_path / "t.jsonl") as process:
        engines = children_of(process.pid)
        assert process.stdout is not None
        process.stdout.read(60)
        for engine in engines:
            os.kill(engine, signal.SIGKILL)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "its process ended by signal 9" in out
    assert "Traceback" not in err
    (trace,) = traces.read(tmp_path / "t.jsonl")
    assert "failed" in (trace.thought_end, trace.answer and trace.answer.end)
    assert trace.steps[-1].text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_engines_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with asking(tmp_path / "t.jsonl") as process:
        engines = children_of(process.pid)
        process.kill()
        process.wait()
        assert gone(engines, within_s=5)


DRAFTING = ["specreason", "speccot", "step-entropy", "step-perplexity", "speculative-thinking"]
OTHERS = ["steer", "relaygen", "random-tokens"]


@pytest.mark.parametrize("name", [*DRAFTING, *OTHERS])
def test_every_policy_answers_on_the_tiny_pair(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, err = run(capsys, "ask", QUESTION, "--policy", name, "--seed", "2", "--json")
    assert (code, err) == (0, "")
    trace = json.loads(out)
    assert trace["answer"]["text"].strip()
    assert trace["thought_end"] == "closed"
    assert trace["policy"].startswith(f"{name}(")
    assert all(step["drafts"] for step in trace["steps"]) == (name in DRAFTING)


def test_own_options_of_a_policy_are_given_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "ask", QUESTION, "--policy", "specreason", "--param", "accept=9", "--param", "expected=true", "--json"
    )
    assert code == 0
    assert json.loads(out)["policy"] == "specreason(accept=9, expected=True)"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "specreason", "--param", "acept=9"], "Did you mean params.accept?"),
        (["--policy", "specreason", "--param", "accept=high"], "params.accept is 'high'; accepted: a number"),
        (["--policy", "speccot", "--param", "drafts=9"], "accepted: from 2 to 8"),
        (["--policy", "specreason", "--param", "accept"], "accepted: NAME=VALUE"),
        (["--policy", "glimpse", "--param", "accept=9"], "takes no params"),
        (["--policy", "rsd"], "the tiny pair has none"),
    ],
)
def test_bad_options_of_a_policy_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in refused(capsys, QUESTION, *arguments)
