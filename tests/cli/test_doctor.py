"""`glimprouter doctor` as a user runs it, and the same look taken when `ask` opens a pair."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path

import pytest

from glimprouter.cli.main import main

SMALL, LARGE = (str(files("glimprouter.models") / f"tiny-{size}.gguf") for size in ("small", "large"))
QUESTION = "Solve the following multiplication: 4 * 6. Give only the result as your final answer."
NOWHERE = "http://127.0.0.1:1"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one call."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_the_tiny_pair_works(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("ok   small reachable    tiny-small")
    assert lines[-1].startswith("this pair works")
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "note", "warn"}
    assert any("ids are handed over" in line for line in lines)
    assert "\x1b" not in out


def test_json_is_one_object_with_findings_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "doctor", "--small", SMALL, "--large", LARGE, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["works"] is True
    assert set(report["findings"][0]) == {"code", "level", "side", "text", "mend"}
    assert report["measured"]["small"]["token_ms"] < report["measured"]["large"]["token_ms"]
    assert report["measured"]["large"]["reentry_cached_tokens"] > 0
    assert report["large_over_small"] > 1


def test_a_server_that_is_down_is_one_line_and_the_other_side_is_still_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys, "doctor", "--small", SMALL, "--large", NOWHERE)
    assert (code, err) == (1, "")
    (failed,) = [line for line in out.splitlines() if line.startswith("fail")]
    assert failed.startswith("fail large reachable")
    assert NOWHERE in failed
    assert "give the address of one" in failed
    assert "ok   small reachable" in out
    assert out.splitlines()[-1] == "this pair cannot work: 1 to mend"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--small", SMALL), "give both, or neither for the tiny pair"),
        (("--small", "no.gguf", "--large", LARGE), "--small no.gguf: no such file"),
        (("--config", "/no/such.toml"), "--config /no/such.toml: cannot be read"),
        (("--thought-format", "small=think"), "--thought-format is given without --small"),
        (("--small", SMALL, "--large", LARGE, "--tokenizer", "big=x"), "accepted: a value, small=VALUE or large=VALUE"),
    ],
)
def test_bad_input_is_two(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run(capsys, "doctor", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_an_unknown_thought_format_fails_with_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--small", SMALL, "--large", LARGE, "--thought-format", "small=thinks")
    code, out, _ = run(capsys, "doctor", *arguments)
    assert code == 1
    (failed,) = [line for line in out.splitlines() if line.startswith("fail")]
    assert "accepted: auto, think, magistral" in failed
    assert run(capsys, "doctor", *arguments[:-1], "small=qwen3")[0] == 0


@contextmanager
def few_logprobs() -> Iterator[str]:
    """The address of an OpenAI-compatible host that gives no log-probabilities."""

    class Host(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"data": [{"id": "host", "owned_by": "somebody", "max_model_len": 20_000}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            choice = {"index": 0, "text": "So", "delta": {"content": "So"}, "finish_reason": "length"}
            usage = {"prompt_tokens": 9, "completion_tokens": 1}
            if not body.get("stream"):
                message = {"role": "assistant", "content": "So"}
                self._send({"choices": [choice | {"message": message}], "usage": usage})
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for event in ({"choices": [choice]}, {"choices": [], "usage": usage}):
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, reply: object) -> None:
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Host) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_ask_refuses_a_small_model_that_cannot_glimpse_in_the_words_of_the_doctor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with few_logprobs() as url:
        pair = ("--small", url, "--large", LARGE, "--thought-format", "small=think")
        code, out, err = run(capsys, "ask", QUESTION, *pair)
        examined, shown, _ = run(capsys, "doctor", *pair)
    assert (code, out, examined) == (2, "", 1)
    (failed,) = [line for line in shown.splitlines() if line.startswith("fail small logprobs")]
    assert failed.partition("logprobs   ")[2].strip() in err


def test_ask_says_once_on_standard_error_what_to_be_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    with few_logprobs() as url:
        _, out, err = run(
            capsys, "ask", QUESTION, "--small", SMALL, "--large", url, "--thought-format", "large=think",
            "--policy", "small", "--answer-by", "small", "--temperature", "0", "--json",
        )  # fmt: skip
    assert err.count("takes no ids") == 1
    assert json.loads(out)["answer"]["text"].strip() == "24"


def test_a_damaged_file_is_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(Path(SMALL).read_bytes()[:100_000])
    code, out, err = run(capsys, "doctor", "--small", str(damaged), "--large", LARGE)
    assert (code, out) == (2, "")
    assert f"--small {damaged}" in err
